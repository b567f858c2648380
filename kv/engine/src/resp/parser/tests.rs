use pdpix::Output;
use quickcheck::quickcheck;

use super::*;
use crate::resp::tests::{cut, heap};

type Args = Vec<Vec<u8>>;

/// Feeds `bytes` as they are cut, and gives what was read before an error, and the error.
fn read(parser: &mut RequestParser, bytes: &[u8], cuts: &[u8], heap: &Heap) -> (Vec<Args>, Option<RequestError>) {
    let (mut input, mut read, mut request) = (Input::new(), Vec::new(), Request::default());
    for part in cut(bytes, cuts) {
        input.push(Sga::copy(heap, part).unwrap());
        loop {
            match parser.next(&mut input, heap, &mut request) {
                Ok(true) => read.push(request.args_from(0).map(<[u8]>::to_vec).collect()),
                Ok(false) => break,
                Err(error) => return (read, Some(error)),
            }
        }
    }
    (read, None)
}

fn multibulk(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.len()).bytes());
        bytes.extend(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn whole(text: &[u8]) -> (Vec<Args>, Option<RequestError>) {
    read(&mut RequestParser::new(), text, &[], &heap())
}

quickcheck! {
    fn any_cut_gives_the_same_requests(commands: Vec<Vec<(Vec<u8>, u16)>>, cuts: Vec<u8>) -> bool {
        let heap = heap();
        // Some arguments are long enough for a buffer of their own.
        let long = |(bytes, len): &(Vec<u8>, u16)| if len % 64 == 0 { vec![len.to_le_bytes()[1]; *len as usize] } else { bytes.clone() };
        let commands: Vec<Args> = commands.iter().map(|args| args.iter().map(long).collect()).collect();
        let bytes = commands.iter().map(|args| multibulk(args)).collect::<Vec<_>>().concat();
        let expected: Vec<Args> = commands.into_iter().filter(|args| !args.is_empty()).collect();
        let mut parser = RequestParser::new();
        let found = read(&mut parser, &bytes, &cuts, &heap);
        assert!(parser.is_empty());
        found == (expected, None) && heap.stats().pinned == 0
    }

    fn random_bytes_mean_the_same_however_they_are_cut(bytes: Vec<u8>, cuts: Vec<u8>, plain: bool) -> bool {
        let heap = heap();
        let alphabet: &[u8] = if plain { b"*$-012\r\n\r\n\r\n" } else { b"*$-012 ab\"'\\x\r\n\n" };
        let bytes: Vec<u8> = bytes.iter().map(|b| alphabet[*b as usize % alphabet.len()]).collect();
        let one = read(&mut RequestParser::new(), &bytes, &[], &heap);
        let other = read(&mut RequestParser::new(), &bytes, &cuts, &heap);
        one == other && heap.stats().pinned == 0
    }
}

#[test]
fn a_whole_command_is_a_slice_of_what_arrived() {
    let heap = heap();
    let mut input = Input::new();
    let bytes = multibulk(&[b"SET".to_vec(), b"key".to_vec(), vec![7; 4000]]);
    let arrived = Sga::copy(&heap, &bytes).unwrap();
    let start = arrived.segments()[0].as_ptr();
    input.push(arrived);
    let copied = heap.copied();
    let mut request = Request::default();
    assert!(RequestParser::new().next(&mut input, &heap, &mut request).unwrap());
    assert_eq!(request.buf(2).as_ptr(), start.wrapping_add(bytes.len() - 4002));
    assert_eq!(heap.copied().since(copied).total(), 0);
    assert_eq!((request.len(), request.arg(1)), (3, &b"key"[..]));
    assert_eq!(request.args_from(1).len(), 2);
}

#[test]
fn an_argument_in_pieces_is_copied_once_and_counted() {
    let heap = heap();
    let bytes = multibulk(&[b"SET".to_vec(), vec![b'k'; 150], vec![7; 100]]);
    let (commands, _) = read(&mut RequestParser::new(), &bytes, &[100, 255], &heap);
    assert_eq!(commands.len(), 1);
    assert_eq!(heap.copied().on(CopyPath::Coalesce), 150, "the key lay in pieces, the value did not");
}

#[test]
fn a_slow_sender_pins_little_more_than_it_sent() {
    for len in [BULK_LONG - 1, 200_000] {
        let heap = heap();
        let bytes = multibulk(&[b"SET".to_vec(), b"key".to_vec(), vec![7; len]]);
        let (mut parser, mut input) = (RequestParser::new(), Input::new());
        for byte in &bytes[..1000] {
            // Each byte in a chunk of 2 KiB.
            let mut chunk = heap.alloc(2048).unwrap();
            chunk.put(&[*byte]);
            input.push(Sga::from(chunk.freeze()));
            assert!(!parser.next(&mut input, &heap, &mut Request::default()).unwrap());
            assert!(heap.stats().pinned < len * 5 / 4 + 32 * 2048, "{} pinned", heap.stats().pinned);
        }
    }
}

#[test]
fn a_line_that_arrives_drop_by_drop_does_not_pin_its_drops() {
    let heap = heap();
    for start in [&b"x"[..], b"*", b"*1\r\n$"] {
        let (mut parser, mut input) = (RequestParser::new(), Input::new());
        input.push(Sga::copy(&heap, start).unwrap());
        for _ in 0..5000 {
            let mut chunk = heap.alloc(2048).unwrap();
            chunk.put(b"1");
            input.push(Sga::from(chunk.freeze()));
            assert!(!parser.next(&mut input, &heap, &mut Request::default()).unwrap());
            assert!(heap.stats().pinned < 100 * 2048, "{} pinned", heap.stats().pinned);
        }
    }
}

#[test]
fn a_long_argument_is_received_into_its_own_buffer() {
    let heap = heap();
    let bytes = multibulk(&[b"SET".to_vec(), b"key".to_vec(), vec![7; 100_000]]);
    let (mut parser, mut input, mut request) = (RequestParser::new(), Input::new(), Request::default());
    let mut whole = false;
    for part in bytes.chunks(16 * 1024) {
        input.push(Sga::copy(&heap, part).unwrap());
        whole = parser.next(&mut input, &heap, &mut request).unwrap();
    }
    assert!(whole, "all of it arrived");
    drop((input, parser));
    assert!(request.buf(2).pinned() < 100_000 * 5 / 4);
    assert_eq!(request.arg(2), &[7; 100_000]);
}

#[test]
fn what_is_wrong_is_told_in_redis_words() {
    let text = |bytes: &[u8], authenticated: bool| {
        let (heap, mut parser) = (heap(), RequestParser::new());
        parser.set_authenticated(authenticated);
        let mut out = Output::new(heap.clone());
        read(&mut parser, bytes, &[], &heap).1.expect("an error").put(&mut out);
        String::from_utf8(out.take().unwrap().to_vec()).unwrap()
    };
    for (bytes, expected) in [
        ("*a\r\n", "invalid multibulk length"),
        ("*99999999999\r\n", "invalid multibulk length"),
        ("*\r\n", "invalid multibulk length"),
        ("*01\r\n", "invalid multibulk length"),
        ("*1\r\nxyz\r\n", "expected '$', got 'x'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("get \"a\n", "unbalanced quotes in request"),
        ("get \"a\"b\n", "unbalanced quotes in request"),
    ] {
        assert_eq!(text(bytes.as_bytes(), true), format!("-ERR Protocol error: {expected}\r\n"));
    }
    assert_eq!(text(b"*11\r\n", false), "-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert_eq!(text(b"*1\r\n$16385\r\n", false), "-ERR Protocol error: unauthenticated bulk length\r\n");
    let endless = |start: &str| format!("{start}{}", "1".repeat(LINE_LEN_MAX)).into_bytes();
    assert_eq!(text(&endless("x"), true), "-ERR Protocol error: too big inline request\r\n");
    assert_eq!(text(&endless("*"), true), "-ERR Protocol error: too big mbulk count string\r\n");
    assert_eq!(text(&endless("*1\r\n$"), true), "-ERR Protocol error: too big bulk count string\r\n");
}

#[test]
fn empty_commands_are_skipped() {
    let (commands, error) = whole(b"*0\r\n*-5\r\n\r\n  \r\nPING\r\n*1\r\n$0\r\n\r\n");
    assert_eq!((commands, error), (vec![vec![b"PING".to_vec()], vec![vec![]]], None));
}

#[test]
fn inline_words_and_quotes() {
    for (line, expected) in [
        ("  set  k\tv \r\n", vec!["set", "k", "v"]),
        ("set k \"a b\"\n", vec!["set", "k", "a b"]),
        (r#"set k "\x41\n\"\q""#, vec!["set", "k", "A\n\"q"]),
        (r"set k 'a\'b\n'", vec!["set", "k", "a'b\\n"]),
        ("set k \"\" ''", vec!["set", "k", "", ""]),
        ("a\"b c\"", vec!["ab c"]),
    ] {
        let (commands, error) = whole(format!("{}\n", line.trim_end_matches('\n')).as_bytes());
        let expected: Args = expected.into_iter().map(|word| word.as_bytes().to_vec()).collect();
        assert_eq!((commands, error), (vec![expected], None), "{line}");
    }
}

#[test]
fn a_line_with_a_zero_byte_never_ends() {
    for bytes in [&b"a\0b c\nPING\n"[..], b"*1\0\r\n$4\r\nPING\r\n", b"*1\r\n$4\0\r\nPING\r\n"] {
        assert_eq!(whole(bytes), (vec![], None));
    }
}

#[test]
fn a_request_that_is_too_much_for_the_memory_is_skipped_alone() {
    let heap = heap();
    for cut in [100, 7, 39_000] {
        let large = multibulk(&[b"SET".to_vec(), vec![1; 300], vec![2; 40_000], b"PX".to_vec()]);
        let bytes = [&large[..], &multibulk(&[b"GET".to_vec(), b"k".to_vec()])].concat();
        let (mut parser, mut input) = (RequestParser::new(), Input::new());
        for part in bytes.chunks(cut) {
            input.push(Sga::copy(&heap, part).unwrap());
        }
        let mut hoard = Vec::new();
        for size in [1 << 17, 40_000].into_iter().chain((0..1024).rev().map(|i| 1 + i * 32)) {
            while let Ok(taken) = heap.alloc(size) {
                hoard.push(taken);
            }
        }
        let mut request = Request::default();
        assert_eq!(parser.next(&mut input, &heap, &mut request), Err(RequestError::Exhausted));
        drop(hoard);
        assert_eq!(parser.next(&mut input, &heap, &mut request), Ok(true), "what follows is read");
        assert_eq!((request.arg(0), request.arg(1)), (&b"GET"[..], &b"k"[..]));
        assert_eq!(parser.next(&mut input, &heap, &mut request), Ok(false));
    }
}
