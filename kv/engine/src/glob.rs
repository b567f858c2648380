//! Redis's patterns (KEYS, SCAN MATCH, CONFIG GET): `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a byte meant as itself.
//!
//! A star remembers only its latest place: whatever an earlier star could still give, the latest one can give as well.
//! So a match takes at most pattern × text steps, whatever the pattern. Kept from Redis: ranges compare signed bytes, an
//! unfinished class ends with the pattern, and an empty text is matched by nothing but an empty pattern.

/// A pattern, and whether upper and lower case are the same to it.
#[derive(Clone, Copy, Debug)]
pub struct Glob<'a> {
    pattern: &'a [u8],
    any_case: bool,
}

impl<'a> Glob<'a> {
    /// A pattern that tells upper from lower case.
    pub fn new(pattern: &'a [u8]) -> Glob<'a> {
        Glob { pattern, any_case: false }
    }

    /// A pattern that does not.
    pub fn any_case(pattern: &'a [u8]) -> Glob<'a> {
        Glob { pattern, any_case: true }
    }

    /// Whether it is the pattern `*`, which KEYS and SCAN take to match the empty name too.
    pub fn is_everything(&self) -> bool {
        self.pattern == b"*"
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.pattern.is_empty();
        }
        let (mut at, mut rest) = (0, text);
        // Where to go on when something behind the latest star does not match: there, with one byte less of the text.
        let mut retry: Option<(usize, &[u8])> = None;
        while let Some((&byte, behind)) = rest.split_first() {
            if self.pattern.get(at) == Some(&b'*') {
                at += 1;
                retry = Some((at, rest));
                continue;
            }
            if let Some(next) = self.step(at, byte) {
                (at, rest) = (next, behind);
                continue;
            }
            let Some((star, tried)) = &mut retry else { return false };
            *tried = &tried[1..];
            (at, rest) = (*star, *tried);
        }
        self.pattern[at..].iter().all(|&byte| byte == b'*')
    }

    /// The place behind the element at `at`, if that one matches `byte`. The element is not a star.
    fn step(&self, at: usize, byte: u8) -> Option<usize> {
        match self.pattern.get(at)? {
            b'?' => Some(at + 1),
            b'[' => self.class(at + 1, byte),
            b'\\' if at + 1 < self.pattern.len() => self.same(self.pattern[at + 1], byte).then_some(at + 2),
            &literal => self.same(literal, byte).then_some(at + 1),
        }
    }

    /// The class whose first byte behind the bracket is at `at`.
    fn class(&self, mut at: usize, byte: u8) -> Option<usize> {
        let pattern = self.pattern;
        let negated = pattern.get(at) == Some(&b'^');
        at += usize::from(negated);
        let mut found = false;
        loop {
            match pattern.get(at..).unwrap_or(&[]) {
                [] => break,
                [b'\\', escaped, ..] => {
                    found |= *escaped == byte; // in its own case, even when case does not matter
                    at += 2;
                }
                [b']', ..] => {
                    at += 1;
                    break;
                }
                [first, b'-', last, ..] => {
                    found |= self.in_range(*first, *last, byte);
                    at += 3;
                }
                [literal, ..] => {
                    found |= self.same(*literal, byte);
                    at += 1;
                }
            }
        }
        (found != negated).then_some(at)
    }

    fn same(&self, literal: u8, byte: u8) -> bool {
        literal == byte || self.any_case && literal.eq_ignore_ascii_case(&byte)
    }

    fn in_range(&self, first: u8, last: u8, byte: u8) -> bool {
        let (low, high) = if first as i8 <= last as i8 { (first, last) } else { (last, first) };
        let fold = |byte: u8| if self.any_case { byte.to_ascii_lowercase() as i8 } else { byte as i8 };
        (fold(low)..=fold(high)).contains(&fold(byte))
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    /// The same language by trying everything: a star is nothing, or one byte and a star.
    fn naive(glob: &Glob, at: usize, text: &[u8]) -> bool {
        match (glob.pattern.get(at), text.split_first()) {
            (Some(b'*'), None) => naive(glob, at + 1, text),
            (Some(b'*'), Some((_, rest))) => naive(glob, at + 1, text) || naive(glob, at, rest),
            (_, Some((&byte, rest))) => glob.step(at, byte).is_some_and(|next| naive(glob, next, rest)),
            (element, None) => element.is_none(),
        }
    }

    quickcheck! {
        fn agrees_with_the_naive_matcher(pattern: Vec<u8>, text: Vec<u8>) -> bool {
            let pattern: Vec<u8> = pattern.into_iter().take(12).map(|b| b"ab*?[^-]\\c*a"[b as usize % 12]).collect();
            let text: Vec<u8> = text.into_iter().take(12).map(|b| b"abc-]"[b as usize % 5]).collect();
            let glob = Glob::new(&pattern);
            glob.matches(&text) == if text.is_empty() { pattern.is_empty() } else { naive(&glob, 0, &text) }
        }
    }

    #[test]
    fn elements() {
        for (pattern, yes, no) in [
            ("h?llo", vec!["hello", "h\u{7f}llo"], vec!["hllo", "heello"]),
            ("h*llo", vec!["hllo", "heeeello"], vec!["hell"]),
            ("h[ae]llo", vec!["hello", "hallo"], vec!["hillo"]),
            ("h[^e]llo", vec!["hallo"], vec!["hello"]),
            ("h[a-c]llo", vec!["hallo", "hbllo"], vec!["hdllo"]),
            ("h[c-a]llo", vec!["hallo"], vec!["hdllo"]),
            (r"h\?llo", vec!["h?llo"], vec!["hello"]),
            (r"a\", vec![r"a\"], vec!["a"]),
            (r"[\]]", vec!["]"], vec![r"\"]),
            ("[a", vec!["a"], vec!["b"]),
            ("[^", vec!["a", "b"], vec!["", "ab"]),
            ("[]a", vec![], vec!["a", "]"]),
            ("a**b***", vec!["ab", "axxb", "abc"], vec!["a"]),
            ("*", vec!["a"], vec![""]),
            ("", vec![""], vec!["a"]),
        ] {
            let glob = Glob::new(pattern.as_bytes());
            yes.iter().for_each(|text| assert!(glob.matches(text.as_bytes()), "{pattern} {text}"));
            no.iter().for_each(|text| assert!(!glob.matches(text.as_bytes()), "{pattern} {text}"));
        }
        assert!(Glob::any_case(b"MAX*[X-Z]").matches(b"maxmemory"));
        assert!(!Glob::new(b"MAX*").matches(b"maxmemory"));
        assert!(Glob::new(b"[a-\xff]").matches(b"\x01"), "signed: -1 to 97");
    }

    #[test]
    fn many_stars_take_no_longer() {
        let pattern = b"a*".repeat(5000);
        assert!(!Glob::new(&[&pattern[..], b"b"].concat()).matches(&b"a".repeat(5000)));
    }
}
