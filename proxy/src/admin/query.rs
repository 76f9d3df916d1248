// SPDX-License-Identifier: Apache-2.0
//! The query of an admin request: names with or without values, percent-decoded.

/// A parsed query string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; what cannot be decoded stays as it is.
    pub(super) fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&');
        let named = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(named.collect())
    }

    /// The first value of a name; empty if the name came without one.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// Whether a name is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// All names with their values, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) if is_hex(*high) && is_hex(*low) => {
                (hex(*high) << 4 | hex(*low), after)
            }
            _ => (*first, after),
        };
        out.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

const fn is_hex(digit: u8) -> bool {
    digit.is_ascii_hexdigit()
}

/// The value of a hexadecimal digit.
const fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::parse(Some("filter=a%7Cb+c&usedonly&x=%zz%4&=y"));
        assert_eq!(query.find("filter"), Some("a|b c"));
        assert_eq!(query.find("usedonly"), Some(""));
        assert_eq!(query.find("x"), Some("%zz%4"));
        assert!(!query.has("y") && query.has(""));
        assert_eq!(Query::parse(None), Query::default());
        assert_eq!(Query::parse(Some("a=%FF")).find("a"), Some("\u{fffd}"));
    }
}
