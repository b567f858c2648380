//! Services of ours inside this process, and the simplest clients that they can have: a socket that is polled without rest.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use framework::System;
use kv_server::ServerArgs;
use libos_boot::{LaunchError, Settings, launch};
use pdpix::{Endpoint, Error};
use services::echo::EchoArgs;

use crate::sampling::{Pinned, median};

/// A service to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// Gives back what it gets.
    Echo,
    /// The cache.
    Kv,
}

/// Where the service that is being started listens: a service tells it to a function, not to a closure.
static LISTENING: Mutex<Option<mpsc::Sender<Result<Endpoint, Error>>>> = Mutex::new(None);
/// One at a time.
static TURN: Mutex<()> = Mutex::new(());

fn say_listening(result: Result<Endpoint, Error>) {
    let sender = LISTENING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    sender.into_iter().for_each(|sender| _ = sender.send(result));
}

/// Runs `client` against a service on one core that idles as `policy` says; gives what it gives.
///
/// # Errors
/// The service could not be started, or the client's.
pub fn with<R>(served: Served, policy: &str, client: impl FnOnce(SocketAddr) -> io::Result<R>) -> io::Result<R> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut settings = Settings::default();
    settings.idle.policy = policy.into();
    settings.memory.size = "64MiB".into();
    let (tell, told) = mpsc::channel();
    *LISTENING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(tell);
    let (give_stopper, stopper) = mpsc::channel();
    let service = thread::spawn(move || -> Result<i32, LaunchError> {
        launch(&settings, move |launched| {
            let _ = give_stopper.send(launched.core.stopper());
            let system = System::new(launched.core.libos());
            let listen: Endpoint = "127.0.0.1:0".parse().expect("an endpoint");
            match served {
                Served::Echo => _ = services::echo::run(&system, EchoArgs { listen, on_listening: say_listening }),
                Served::Kv => {
                    let mut args = ServerArgs::new(listen);
                    args.on_listening = say_listening;
                    kv_server::run(&system, args);
                }
            }
            system.run(&launched.core, Duration::from_millis(100))
        })
    });
    let result = match told.recv_timeout(Duration::from_secs(10)) {
        Ok(Ok(at)) => {
            // The service is on the first processor; a client that never rests must not be there, too.
            let _pinned = Pinned::to_last();
            at.to_string().parse().map_err(io::Error::other).and_then(client)
        }
        Ok(Err(error)) => Err(io::Error::from_raw_os_error(error.errno())),
        Err(_) => Err(io::Error::other("the service does not start")),
    };
    if let Ok(stopper) = stopper.try_recv() {
        stopper.stop();
    }
    match service.join() {
        Ok(Ok(_)) => result,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::other("the service panicked")),
    }
}

/// A client that polls its socket without rest: the same for every server that it measures.
pub struct Client(TcpStream);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(at: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Client(stream))
    }

    /// Sends all of `request`, and waits for as many bytes as `reply` has room for.
    ///
    /// # Errors
    /// The system's; `TimedOut`.
    pub fn ask(&mut self, request: &[u8], reply: &mut [u8]) -> io::Result<()> {
        let (mut sent, mut came, mut polls) = (0, 0, 0u64);
        let mut asked = None;
        while came < reply.len() {
            if sent < request.len() {
                sent += again(self.0.write(&request[sent..]))?.unwrap_or(0);
            }
            match again(self.0.read(&mut reply[came..]))? {
                Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Some(count) => came += count,
                None => polls += 1,
            }
            // The clock is read rarely: it would be a part of what is measured.
            if polls.is_multiple_of(100_000) && polls > 0 {
                polls += 1;
                if asked.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    }
}

fn again(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// The median round trip of `size` bytes to an echo: nanoseconds.
///
/// # Errors
/// The client's; or other bytes came back.
pub fn echo_p50(at: SocketAddr, size: usize, warm_up: usize, count: usize) -> io::Result<f64> {
    let mut client = Client::connect(at)?;
    let (mut request, mut reply) = (vec![0x55; size], vec![0; size]);
    let mut trips = Vec::with_capacity(count);
    for index in 0..warm_up + count {
        request[0] = index as u8;
        let start = Instant::now();
        client.ask(&request, &mut reply)?;
        if index >= warm_up {
            trips.push(start.elapsed().as_nanos() as f64);
        }
        if reply != request {
            return Err(io::Error::other("other bytes came back"));
        }
    }
    Ok(median(trips))
}

/// GETs a second of one connection with `pipeline` of them in flight, 64 B values.
///
/// # Errors
/// The client's.
pub fn get_rate(at: SocketAddr, pipeline: usize, batches: usize) -> io::Result<f64> {
    let mut client = Client::connect(at)?;
    let set = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$64\r\n{}\r\n", "m".repeat(64));
    client.ask(set.as_bytes(), &mut [0; 5])?;
    let request = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n".repeat(pipeline);
    let mut reply = vec![0; ("$64\r\n".len() + 64 + 2) * pipeline];
    let mut rates = Vec::with_capacity(batches);
    for _ in 0..batches {
        let start = Instant::now();
        client.ask(&request, &mut reply)?;
        rates.push(pipeline as f64 / start.elapsed().as_secs_f64());
        if !reply.ends_with(b"mm\r\n") {
            return Err(io::Error::other("not the value that was set"));
        }
    }
    Ok(median(rates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_measured_one_after_the_other() {
        let p50 = with(Served::Echo, "adaptive", |at| echo_p50(at, 64, 10, 100)).unwrap();
        assert!(p50 > 0.0);
        let rate = with(Served::Kv, "adaptive", |at| get_rate(at, 16, 20)).unwrap();
        assert!(rate > 0.0);
    }
}
