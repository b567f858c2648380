//! Whole conversations on one connection, to be compared byte for byte: inline commands, broken protocol, and what is
//! answered before the connection is closed.

use pdpix::Rng;

use crate::{generate, resp};

/// What a client sends, each as one connection.
pub const SCRIPTS: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"  ping  \r\n",
    b"\r\n\r\nPING\r\n\n",
    b"   \r\nPING\r\n",
    b"SET key \"a \\\"quoted\\\" \\x41\\n value\"\r\nGET key\r\n",
    b"SET key 'single \\' quoted \\n'\r\nGET key\r\n",
    b"SET key \"\"\r\nGET key\r\nSTRLEN key\r\n",
    b"ECHO \"unbalanced\r\nPING\r\n",
    b"ECHO 'unbalanced\r\nPING\r\n",
    b"ECHO \"closed\"too early\r\nPING\r\n",
    b"ECHO \"closed\" in time\r\nPING\r\n",
    b"ECHO a\"b\"\r\nPING\r\n",
    b"ECHO \\x41\r\n",
    b"ECHO \"\\x4\\xzz\\a\\b\\t\\q\"\r\n",
    b"ECHO a\0b\r\nPING\r\n",
    b"\0\r\nPING\r\n",
    b"PING\rPING\r\nPING\r\n",
    b"PING\r\r\n",
    b"\rPING\r\n",
    b"GET\r\nSET a\r\nPING\r\n",
    b"nosuch a b c\r\n",
    b"nosuch 'a b' \"c\\r\\nd\"\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\r\nping\r\n*1\r\n$4\r\nPiNg\r\n",
    b"*0\r\n*1\r\n$4\r\nPING\r\n",
    b"*-1\r\n*1\r\n$4\r\nPING\r\n",
    b"*-10\r\nPING\r\n",
    b"*\r\nPING\r\n",
    b"*x\r\nPING\r\n",
    b"* 1\r\n$4\r\nPING\r\n",
    b"*1 \r\n$4\r\nPING\r\n",
    b"*+1\r\n$4\r\nPING\r\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*1\n$4\r\nPING\r\n",
    b"*1\rX$4\r\nPING\r\n",
    b"*1\r\n$4\rXPING\r\n",
    b"*1\r\n$4\r\nPINGXX",
    b"*1\r\n$4\r\nPINGXX*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$4\r\nPINGPONG\r\nPING\r\n",
    b"*2147483647\r\n$4\r\nPING\r\n",
    b"*2147483648\r\n$4\r\nPING\r\n",
    b"*9223372036854775808\r\n$4\r\nPING\r\n",
    b"*1048577\r\n$4\r\nPING\r\n",
    b"*1\r\n$-1\r\nPING\r\n",
    b"*1\r\n$-0\r\nPING\r\n",
    b"*1\r\n$\r\nPING\r\n",
    b"*1\r\n$x\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$4 \r\nPING\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$9223372036854775808\r\n",
    b"*1\r\n:4\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n\r\nPING\r\n",
    b"*1\r\n\nPING\r\n",
    b"*1\r\n\xffPING\r\n",
    b"*1\r\n\0PING\r\n",
    b"*1\r\n*1\r\n$4\r\nPING\r\n",
    b"*1\r\n$0\r\n\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n",
    b"*3\r\n",
    b"*3",
    b"PIN",
    b"PING\r\n*1\r\n$x\r\nPING\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a b\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a b\r\n",
    b"SET a b\r\nHost: x\r\nGET a\r\n",
    b"QUIT\r\nPING\r\n",
    b"quit now\r\nPING\r\n",
    b"+PING\r\nPING\r\n",
    b"$4\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nPING\r\nSET a 1\r\nnosuch\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nGET a\r\n",
    b"ZADD z -0 a\r\nZSCORE z a\r\nZRANGE z 0 -1 WITHSCORES\r\nZADD z INCR -0 b\r\nZINCRBY z -0 a\r\n",
    b"CLIENT REPLY SKIP\r\nPING\r\nPING\r\n",
    b"CLIENT REPLY SKIP\r\nnosuch\r\nPING\r\n",
    b"CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING\r\nECHO a\r\n",
    b"CLIENT REPLY SKIP\r\nQUIT\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\nQUIT\r\n",
    b"CLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
    b"CLIENT REPLY OFF\r\n*x\r\n",
    b"HELLO 4\r\nHELLO 3 AUTH a b\r\nHELLO 3 SETNAME 'a b'\r\nHELLO 2 SETNAME ab\r\nCLIENT GETNAME\r\nHELLO x\r\n",
    b"HELLO 3 what\r\nHELLO 3 AUTH a\r\nHELLO 3 SETNAME\r\nGET a\r\n",
    b"SELECT 3\r\nSET a 1\r\nRESET\r\nGET a\r\nSELECT 3\r\nGET a\r\n",
    b"CONFIG SET requirepass secret\r\nPING\r\nAUTH wrong\r\nAUTH secret\r\nAUTH default secret\r\nAUTH other secret\r\nRESET\r\nPING\r\nHELLO 3\r\nnosuch\r\nGET\r\nAUTH a b c\r\nHELLO 2 AUTH default wrong\r\nAUTH secret\r\nCONFIG SET requirepass ''\r\n",
    b"CONFIG SET requirepass secret\r\nRESET\r\n*11\r\n$4\r\nPING\r\n",
    b"CONFIG SET requirepass secret\r\nRESET\r\n*1\r\n$16385\r\n",
];

/// Where memory is short: the same commands are refused, on one shard and on several.
pub const SHORT_OF_MEMORY: &[u8] = b"MSET a 1 b 2 c 3 d 4\r\nRPUSH l x y\r\nSADD s 1 2\r\nSADD t 3\r\nZADD z 1 a\r\nCONFIG SET maxmemory 1\r\n\
    SET e 1\r\nGET a\r\nMGET a b c d\r\nMSET a 5 b 6 c 7 d 8\r\nMSETNX e 5 f 6 g 7 h 8\r\nINCR a\r\nAPPEND a x\r\nDEL a\r\nRPUSH l z\r\nLPOP l\r\n\
    SUNIONSTORE u s t\r\nSADD s 3\r\nSREM s 1\r\nSUNION s t\r\nRENAME b bb\r\nEXPIRE c 100\r\nCOPY c cc\r\nZADD z 2 b\r\nZPOPMIN z\r\nHSET h a b\r\n\
    LMOVE l m LEFT LEFT\r\nSETRANGE d 1 x\r\nSET a\r\nnosuch\r\nEXISTS a b c d bb cc u\r\nCONFIG SET maxmemory 0\r\nSET e 1\r\nSUNIONSTORE u s t\r\n";

/// Longer ones.
pub fn long_scripts() -> Vec<Vec<u8>> {
    let mut scripts = vec![
        [&b"ECHO "[..], &[b'a'; 65_530], b"\r\nPING\r\n"].concat(),
        [&b"ECHO "[..], &[b'a'; 70_000], b"\r\nPING\r\n"].concat(),
        [&b"ECHO "[..], &[b'a'; 100_000], b"\r\nPING\r\n"].concat(),
        vec![b'a'; 70_000],
        [&b"*"[..], &[b'1'; 70_000]].concat(),
        [&b"*1\r\n$"[..], &[b'1'; 70_000]].concat(),
        [&b"*2\r\n$4\r\nECHO\r\n$100000\r\n"[..], &[b'x'; 100_000], b"\r\nPING\r\n"].concat(),
        b"PING\r\n".repeat(3000),
        b"*1\r\n$4\r\nPING\r\n".repeat(3000),
    ];
    // Arguments without number.
    let mut many = b"*2001\r\n$6\r\nEXISTS\r\n".to_vec();
    many.extend(b"$1\r\na\r\n".repeat(2000));
    scripts.push(many);
    scripts
}

/// Whether the connection is cut while it is sent: then what was not answered yet is lost, and it matters what arrived at
/// once.
pub fn is_cut(script: &[u8]) -> bool {
    script.windows(5).any(|word| word == b"Host:")
}

/// Replies with what HELLO says of the connection's number taken out.
pub fn without_ids(replies: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = replies.split(|&byte| byte == b'\n').collect();
    for index in 1..lines.len() {
        if lines[index - 1] == b"id\r" {
            lines[index] = b":n\r";
        }
    }
    lines.join(&b'\n')
}

/// A few commands, a few bytes of which are wrong.
pub fn broken(seed: u64) -> Vec<u8> {
    const SAFE: [&str; 8] = ["get", "set", "ping", "lpush", "incr", "echo", "exists", "nosuch"];
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let mut args = generate::command(&mut rng);
        args[0] = SAFE[rng.below(SAFE.len() as u64) as usize].as_bytes().to_vec();
        args.retain(|arg| arg.len() < 1000 && arg != b"SYNC"); // which we do not have
        bytes.extend(resp::write(&args));
    }
    for _ in 0..rng.below(4) {
        if bytes.is_empty() {
            break;
        }
        let index = rng.below(bytes.len() as u64) as usize;
        match rng.below(5) {
            0 => _ = bytes.remove(index),
            1 => bytes.insert(index, b"\r\n*$-0123456789 \0\"'"[rng.below(19) as usize]),
            2 => bytes[index] = b"\r\n*$-0123456789 \0\"'"[rng.below(19) as usize],
            3 => bytes[index] = rng.below(256) as u8,
            _ => bytes.truncate(index + 1),
        }
    }
    bytes.extend(b"\r\nPING\r\n");
    bytes
}
