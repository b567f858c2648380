//! Reads scripts.

use std::time::Duration;

use libos_net::wire::Flags;

use super::packet::{About, Echo, Options, Packet, Segment};

pub struct Script {
    pub settings: Vec<(String, String)>,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub number: usize,
    pub text: String,
    /// After the line before; the second is the end of a range.
    pub after: (Duration, Option<Duration>),
    pub what: What,
}

pub enum What {
    /// The peer sends.
    In(Packet),
    /// We are to send.
    Out(Packet),
    /// A call on a queue, and how it is to end.
    Call { queue: Option<String>, words: Vec<String>, ends: Option<String> },
}

type Result<T> = std::result::Result<T, String>;

pub fn parse(text: &str) -> Result<Script> {
    let mut script = Script { settings: Vec::new(), lines: Vec::new() };
    for (i, full) in text.lines().enumerate() {
        let line = full.split("//").next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let place = |complaint: String| format!("line {}: {complaint}: {full}", i + 1);
        if let Some(setting) = line.strip_prefix("set ") {
            let (name, value) = setting.trim().split_once(' ').ok_or_else(|| place("no value".into()))?;
            script.settings.push((name.into(), value.trim().into()));
            continue;
        }
        let rest = line.strip_prefix('+').ok_or_else(|| place("a line begins with +time, or `set`".into()))?;
        let (time, rest) = rest.split_once(char::is_whitespace).ok_or_else(|| place("nothing to do".into()))?;
        let after = parse_time(time).map_err(place)?;
        let what = parse_what(rest.trim()).map_err(place)?;
        script.lines.push(Line { number: i + 1, text: line.into(), after, what });
    }
    Ok(script)
}

fn parse_time(text: &str) -> Result<(Duration, Option<Duration>)> {
    let seconds = |text: &str| {
        let seconds: f64 = text.parse().map_err(|_| format!("{text} is no time"))?;
        Ok::<_, String>(Duration::from_nanos((seconds * 1e9).round() as u64))
    };
    match text.split_once('~') {
        Some((from, to)) => Ok((seconds(from)?, Some(seconds(to.trim_start_matches('+'))?))),
        None => Ok((seconds(text)?, None)),
    }
}

fn parse_what(text: &str) -> Result<What> {
    if let Some(packet) = text.strip_prefix('<') {
        return Ok(What::In(parse_packet(packet.trim())?));
    }
    if let Some(packet) = text.strip_prefix('>') {
        return Ok(What::Out(parse_packet(packet.trim())?));
    }
    let (call, ends) = match text.split_once("->") {
        Some((call, ends)) => (call.trim(), Some(ends.trim().to_string())),
        None => (text, None),
    };
    let mut words: Vec<String> = call.split_whitespace().map(str::to_string).collect();
    let queue = words.first().and_then(|word| word.strip_suffix(':')).map(str::to_string);
    if queue.is_some() {
        words.remove(0);
    }
    if words.is_empty() {
        return Err("no call".into());
    }
    Ok(What::Call { queue, words, ends })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// `1:1001(1000)`.
fn parse_range(text: &str) -> Result<(u32, u32)> {
    let (start, rest) = text.split_once(':').ok_or_else(|| format!("{text} is not start:end(length)"))?;
    let (end, len) = rest.split_once('(').ok_or_else(|| format!("{text} is not start:end(length)"))?;
    let (start, end, len): (u32, u32, u32) = (number(start)?, number(end)?, number(len.trim_end_matches(')'))?);
    if start.wrapping_add(len) != end {
        return Err(format!("{start} and {len} are not {end}"));
    }
    Ok((start, len))
}

fn parse_packet(text: &str) -> Result<Packet> {
    let (head, options) = match text.split_once('<') {
        Some((head, options)) => (head, Some(parse_options(options.trim_end().trim_end_matches('>'))?)),
        None => (text, None),
    };
    let mut words = head.split_whitespace().peekable();
    match words.peek() {
        Some(&"udp") => {
            words.next();
            let port = parse_port(&mut words)?;
            let len = words.next().ok_or("no length")?;
            return Ok(Packet::Udp { port, len: number(len.trim_matches(['(', ')']))? });
        }
        Some(&"icmp") => {
            words.next();
            return parse_icmp(words);
        }
        _ => {}
    }
    let ecn = match words.peek() {
        Some(word) if word.starts_with('[') => {
            let ecn = match words.next() {
                Some("[noecn]") => 0,
                Some("[ect1]") => 1,
                Some("[ect0]") => 2,
                Some("[ce]") => 3,
                other => return Err(format!("{other:?} is no mark")),
            };
            Some(ecn)
        }
        _ => None,
    };
    let port = parse_port(&mut words)?;
    let flags = parse_flags(words.next().ok_or("no flags")?)?;
    let (seq, len) = parse_range(words.next().ok_or("no numbers")?)?;
    let mut segment = Segment { port, ecn, flags, seq, len, ack: None, win: None, urgent: None, options };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} of what?"));
        match word {
            "ack" => segment.ack = Some(number(value()?)?),
            "win" => segment.win = Some(number(value()?)?),
            "urg" => segment.urgent = Some(number(value()?)?),
            other => return Err(format!("what is {other}?")),
        }
    }
    if segment.flags.has(Flags::ACK) != segment.ack.is_some() {
        return Err("`.` and `ack` come together".into());
    }
    Ok(Packet::Tcp(segment))
}

fn parse_port<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>) -> Result<u16> {
    match words.peek().and_then(|word| word.strip_prefix('@')) {
        Some(port) => {
            words.next();
            number(port)
        }
        None => Ok(super::stage::PEER_PORT),
    }
}

fn parse_flags(text: &str) -> Result<Flags> {
    text.chars().try_fold(Flags(0), |flags, letter| {
        Ok(flags.with(match letter {
            'F' => Flags::FIN,
            'S' => Flags::SYN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            '.' => Flags::ACK,
            'U' => Flags::URG,
            'E' => Flags::ECE,
            'W' => Flags::CWR,
            '-' => Flags(0), // none at all
            other => return Err(format!("{other} is no flag")),
        }))
    })
}

fn parse_options(text: &str) -> Result<Options> {
    let mut options = Options::default();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let words: Vec<&str> = option.split_whitespace().collect();
        match words[..] {
            ["nop"] | ["eol"] => {}
            ["..."] => options.open = true,
            ["mss", mss] => options.mss = Some(number(mss)?),
            ["wscale", scale] => options.scale = Some(number(scale)?),
            ["sackOK"] => options.sack_permitted = true,
            ["TS", "val", value, "ecr", echo] => {
                let value = if value == "*" { None } else { Some(number(value)?) };
                let echo = match echo {
                    "*" => Echo::Any,
                    "last" => Echo::Last,
                    echo => Echo::Is(number(echo)?),
                };
                options.stamps = Some((value, echo));
            }
            ["sack", ..] => {
                for block in &words[1..] {
                    let (left, right) = block.split_once(':').ok_or("a block is left:right")?;
                    options.sack.push((number(left)?, number(right)?));
                }
            }
            _ => return Err(format!("what is the option {option}?")),
        }
    }
    Ok(options)
}

/// `unreachable frag_needed mtu 1200 [1:1461(1460)]`, `unreachable port udp`.
fn parse_icmp<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Packet> {
    let kind = match words.next() {
        Some("unreachable") => 3,
        Some("time_exceeded") => 11,
        other => return Err(format!("{other:?} is no ICMP error")),
    };
    let (mut code, mut mtu, mut about) = (0, 0, About::Udp { port: super::stage::PEER_PORT });
    while let Some(word) = words.next() {
        match word {
            "net" => code = 0,
            "host" => code = 1,
            "protocol" => code = 2,
            "port" => code = 3,
            "frag_needed" => code = 4,
            "prohibited" => code = 13,
            "mtu" => mtu = number(words.next().ok_or("which mtu?")?)?,
            "udp" => {}
            range => {
                let (seq, _) = parse_range(range.trim_start_matches('[').trim_end_matches(']'))?;
                about = About::Tcp { port: super::stage::PEER_PORT, seq };
            }
        }
    }
    Ok(Packet::Icmp { kind, code, mtu, about })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "0 < S 0:0(0)",
            "+x < S 0:0(0)",
            "+0 < S 0:1(0)",
            "+0 < . 0:0(0)",
            "+0 < S 0:0(0) ack 1",
            "+0 < Q 0:0(0)",
            "+0 < S 0:0(0) <mss>",
            "+0 < S 0:0(0) win",
            "+0",
            "set x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_is_read_whole() {
        let script = parse(
            "set mtu 1200 // x\n\n+0.1~0.2 > [ect0] @7 P.E 1:3(2) ack 5 win 9 <TS val * ecr 3,nop,sack 1:2 4:5,...>",
        )
        .unwrap();
        assert_eq!(script.settings, [("mtu".to_string(), "1200".to_string())]);
        let line = &script.lines[0];
        assert_eq!((line.number, line.after.0.as_millis(), line.after.1.unwrap().as_millis()), (3, 100, 200));
        let What::Out(Packet::Tcp(segment)) = &line.what else { panic!("not a segment") };
        assert_eq!((segment.port, segment.ecn, segment.seq, segment.len), (7, Some(2), 1, 2));
        assert_eq!((segment.ack, segment.win), (Some(5), Some(9)));
        let options = segment.options.as_ref().unwrap();
        assert_eq!((options.stamps, options.open), (Some((None, Echo::Is(3))), true));
        assert_eq!(options.sack, [(1, 2), (4, 5)]);
    }
}
