//! `margay wal`: a log as a service, and a small client of one.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use framework::pdpix::{Endpoint, Error, OpenMode};
use framework::rpc::Retry;
use framework::{LogSettings, System, Task};
use libos_boot::launch;
use services::wal::{self, Answer, Caller, LogFailed, Request, WalArgs};

use crate::core_args::{CoreArguments, Transport, listen_at, parse_duration, say_listening, serve};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    client: Option<Client>,
    /// Where to listen [default: port 7008 of 127.0.0.1, or of --address]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<Endpoint>,
    /// Where the log is: a directory, in which there is or will be a file `core-0.log`.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Bytes that the file takes when it is made [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// The log's name in it.
    #[arg(long, default_value = "wal")]
    log: String,
    #[command(flatten)]
    cores: CoreArguments,
}

/// What a client does, at a service that runs.
#[derive(Subcommand)]
enum Client {
    /// Appends each line of the standard input as a record; prints its number when it is durable.
    Append(ClientArguments),
    /// Prints records: number, tab, bytes.
    Read {
        /// The first.
        #[arg(long, default_value_t = 0, value_name = "N")]
        from: u64,
        /// How many, at most.
        #[arg(long, default_value_t = u64::MAX, value_name = "N", hide_default_value = true)]
        count: u64,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// The same, and then what is appended, until it is interrupted.
    Tail {
        /// The first [default: what is appended from now on]
        #[arg(long, value_name = "N")]
        from: Option<u64>,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Frees all records before a number.
    Truncate {
        /// The first record to be kept.
        before: u64,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Prints the first record that is left, and the number of the next.
    Extent(ClientArguments),
}

#[derive(Args, Clone)]
struct ClientArguments {
    /// Where the service is.
    #[arg(long, default_value = "127.0.0.1:7008", value_name = "ADDR:PORT")]
    connect: Endpoint,
    /// How long each call may take.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    cores: CoreArguments,
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    match arguments.client {
        Some(client) => run_client(client),
        None => run_server(arguments),
    }
}

fn run_server(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { listen, dir, size, log, mut cores, .. } = arguments;
    let listen = listen_at(listen, 7008, Transport::Tcp, &cores)?;
    let mut set = |key: &str, value: Option<String>| cores.set.extend(value.map(|value| format!("{key}={value}")));
    set("storage.dir", dir.map(|dir| dir.display().to_string()));
    set("storage.size", size);
    let settings = cores.settings()?;
    if settings.cores.count > 1 {
        bail!("a log has one core: leave --cores away");
    }
    if settings.storage.dir.is_none() && settings.storage.device.is_none() {
        bail!("a log has to be somewhere: give --dir, or --set storage.device=DISK");
    }
    let mode = if settings.storage.read_only { OpenMode::ReadOnly } else { OpenMode::ExistingOrNew };
    serve(&cores, move |system, launched| {
        let how = launched.storage.as_deref().unwrap_or_default();
        eprintln!("margay: the log is reached by {how}");
        let settings = LogSettings { mode, ..LogSettings::default() };
        let args = WalArgs { listen, log: log.clone(), settings, on_listening: say_listening, on_failed: say_failed };
        wal::run(system, args);
    })
}

fn say_failed(LogFailed { error, damage }: LogFailed) {
    eprintln!("margay: cannot open the log: {error}");
    if let Some(damage) = damage {
        let lost = damage.lost;
        eprintln!(
            "margay: record {} is damaged, at byte {} of the file: at least {lost} records are lost",
            damage.sequence, damage.offset
        );
    }
}

fn run_client(client: Client) -> anyhow::Result<i32> {
    let arguments = match &client {
        Client::Append(client) | Client::Extent(client) => client,
        Client::Read { client, .. } | Client::Tail { client, .. } | Client::Truncate { client, .. } => client,
    };
    let settings = arguments.cores.settings()?;
    let arguments = arguments.clone();
    let client = std::sync::Arc::new(client);
    Ok(launch(&settings, move |launched| {
        let system = System::new(launched.core.libos());
        let (arguments, client) = (arguments.clone(), client.clone());
        let code = std::rc::Rc::new(std::cell::Cell::new(130)); // interrupted
        let theirs = code.clone();
        let conversation = system.task(|task| async move {
            let caller = Caller::new(&task, arguments.connect);
            let mut conversation = Conversation { caller, timeout: arguments.timeout, task: task.clone() };
            theirs.set(match conversation.hold(&client).await {
                Ok(()) => 0,
                Err(why) => {
                    eprintln!("margay: {}: {why}", arguments.connect);
                    1
                }
            });
            task.libos().stop();
        });
        system.run(&launched.core, Duration::ZERO);
        drop(conversation);
        code.get()
    })?)
}

/// Records of one answer.
const BATCH: u32 = 256;

struct Conversation {
    caller: Caller,
    timeout: Duration,
    task: Task,
}

impl Conversation {
    async fn hold(&mut self, client: &Client) -> Result<(), String> {
        match client {
            Client::Append(_) => self.append_lines().await,
            Client::Read { from, count, .. } => self.read(*from, *count).await,
            Client::Tail { from, .. } => self.tail(*from).await,
            Client::Truncate { before, .. } => match self.ask(Request::Truncate(*before), Retry::Safely).await? {
                Answer::Truncated(first) => say(&format!("first {first}\n")),
                other => Err(unexpected(&other)),
            },
            Client::Extent(_) => {
                let (first, next) = self.extent().await?;
                say(&format!("first {first} next {next}\n"))
            }
        }
    }

    async fn ask(&mut self, request: Request, retry: Retry) -> Result<Answer, String> {
        match self.caller.call(request, self.timeout, retry).await {
            Ok(Answer::Failed(errno)) => Err(Error::from_errno(errno).to_string()),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn extent(&mut self) -> Result<(u64, u64), String> {
        match self.ask(Request::Extent, Retry::Safely).await? {
            Answer::Extent { first, next } => Ok((first, next)),
            other => Err(unexpected(&other)),
        }
    }

    async fn append_lines(&mut self) -> Result<(), String> {
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.map_err(|error| error.to_string())?;
            if line.is_empty() {
                continue; // a record has at least one byte
            }
            // Not repeated on its own: after a restart of the service it would be there twice.
            match self.ask(Request::Append(line), Retry::Never).await? {
                Answer::Appended(sequence) => say(&format!("{sequence}\n"))?,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    async fn read(&mut self, mut from: u64, mut count: u64) -> Result<(), String> {
        while count > 0 {
            let batch = count.min(u64::from(BATCH)) as u32;
            let Answer::Records(records) = self.ask(Request::Read { from, count: batch }, Retry::Safely).await? else {
                return Err("an answer of another kind".into());
            };
            let Some((last, _)) = records.last() else { return Ok(()) };
            (from, count) = (last + 1, count - records.len() as u64);
            print_records(&records)?;
        }
        Ok(())
    }

    async fn tail(&mut self, from: Option<u64>) -> Result<(), String> {
        let mut from = match from {
            Some(from) => from,
            None => self.extent().await?.1,
        };
        loop {
            match self.ask(Request::Follow { from, count: BATCH }, Retry::Safely).await? {
                Answer::Records(records) => {
                    from = records.last().map_or(from, |(last, _)| last + 1);
                    print_records(&records)?;
                }
                other => return Err(unexpected(&other)),
            }
            self.task.libos().yield_now().await;
        }
    }
}

fn unexpected(answer: &Answer) -> String {
    format!("an answer of another kind: {answer:?}")
}

fn print_records(records: &[(u64, Vec<u8>)]) -> Result<(), String> {
    let mut text = Vec::new();
    for (sequence, bytes) in records {
        text.extend_from_slice(format!("{sequence}\t").as_bytes());
        text.extend_from_slice(bytes);
        text.push(b'\n');
    }
    say_bytes(&text)
}

fn say(text: &str) -> Result<(), String> {
    say_bytes(text.as_bytes())
}

/// At once, also into a pipe: whoever reads it relies on it.
fn say_bytes(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| error.to_string())
}
