// SPDX-License-Identifier: Apache-2.0
//! Character classes of RFC 9110 and RFC 3986 as one lookup table.
//!
//! Everything that reads peers' bytes in this crate asks here, so that one byte has one class
//! wherever it is met. The table is built at compile time.

const TOKEN: u8 = 1;
const UNRESERVED: u8 = 4;
const HOST: u8 = 8;

/// The classes of each byte.
static CLASSES: [u8; 256] = classes();

/// Whether the byte may stand in a token: RFC 9110 section 5.6.2 `tchar`.
pub(crate) const fn is_token(byte: u8) -> bool {
    has(byte, TOKEN)
}

/// Whether all bytes may stand in a request target: visible characters and obs-text, but `#`.
///
/// Wider than RFC 3986, as browsers and PHP clients send `|`, `"`, `{` and raw UTF-8 in paths.
/// Written without an early exit, so that it becomes vector code.
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, &b| {
        bad | (b <= b' ') | (b == 0x7f) | (b == b'#')
    })
}

/// Whether the byte never needs an escape in a URI: RFC 3986 section 2.3.
pub(crate) const fn is_unreserved(byte: u8) -> bool {
    has(byte, UNRESERVED)
}

/// Whether the byte may stand in a host name: RFC 3986 `unreserved`, and `sub-delims` without the
/// comma, which would let two joined `Host` lines pass as one.
pub(crate) const fn is_reg_name(byte: u8) -> bool {
    has(byte, HOST)
}

/// Whether a field value may hold these bytes: RFC 9110 section 5.5, controls but tab refused.
///
/// Written without an early exit, so that it becomes vector code.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    !bytes.iter().fold(false, |bad, &b| {
        bad | ((b < 0x20) & (b != b'\t')) | (b == 0x7f)
    })
}

/// The value of a hexadecimal digit.
pub(crate) const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Cuts spaces and tabs from both ends: RFC 9110 section 5.6.3 `OWS`.
pub(crate) const fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The non-empty members of a comma-separated list: RFC 9110 section 5.6.1.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

const fn has(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut byte = 0;
        // The loop's bound keeps the cast exact; `try_from` is not const.
        #[allow(clippy::cast_possible_truncation)]
        if i <= u8::MAX as usize {
            byte = i as u8;
        }
        if byte.is_ascii_alphanumeric() {
            table[i] |= TOKEN | UNRESERVED | HOST;
        }
        if matches!(byte, b'-' | b'.' | b'_' | b'~') {
            table[i] |= TOKEN | UNRESERVED | HOST;
        }
        if matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|'
        ) {
            table[i] |= TOKEN;
        }
        if matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=' | b'%'
        ) {
            table[i] |= HOST;
        }
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_class_is_the_one_of_the_rfc() {
        let expected = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        assert!((0..=255).all(|b| is_token(b) == expected(b)));
    }

    #[test]
    fn targets_hold_no_space_control_or_fragment() {
        let refused: Vec<u8> = (0..=255).filter(|b| !is_target(&[*b])).collect();
        let expected: Vec<u8> = (0..=32).chain([b'#', 127]).collect();
        assert_eq!(refused, expected);
    }

    #[test]
    fn values_hold_no_control_but_tab() {
        for byte in 0..=255u8 {
            let control = byte != b'\t' && (byte < 32 || byte == 127);
            assert_eq!(is_value(&[b'a', byte, b'b']), !control, "{byte}");
        }
    }

    #[test]
    fn lists_lose_blanks_and_empty_members() {
        let members: Vec<&[u8]> = list(b" a ,,\tb,").collect();
        assert_eq!(members, [b"a", b"b"]);
    }
}
