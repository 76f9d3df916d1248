// SPDX-License-Identifier: Apache-2.0
//! What a DNS message asks: header and question, read from raw bytes.
//!
//! A question that goes on to the machine's resolver goes on as its bytes, so here it is found and
//! checked, not decoded into a form that must be encoded again. Called by `answer` on queries and
//! by `forward` on what upstream replies.
//!
//! Invariant: a [`Question`] lies wholly within the message it was read from, right behind the
//! header, and its name is uncompressed.

use std::ops::Range;

/// Length of a message's header (RFC 1035 §4.1.1).
pub(super) const HEADER_LEN: usize = 12;

/// The bits and counts of a header that decide what happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) is_response: bool,
    /// Four bits; 0 is a standard query.
    pub(super) op_code: u8,
    pub(super) is_truncated: bool,
    /// The four bits of the header, without EDNS's eight more.
    pub(super) response_code: u8,
    pub(super) questions: u16,
}

impl Header {
    /// Reads the header; `None` if the message is too short for one.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_LEN] = message.first_chunk()?;
        let [id0, id1, high, low, questions0, questions1, ..] = *header;
        Some(Self {
            id: u16::from_be_bytes([id0, id1]),
            is_response: high & 0x80 != 0,
            op_code: (high >> 3) & 0x0f,
            is_truncated: high & 0x02 != 0,
            response_code: low & 0x0f,
            questions: u16::from_be_bytes([questions0, questions1]),
        })
    }
}

/// The first question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Where name, type and class lie in the message.
    pub(super) range: Range<usize>,
    /// The name in the form of the name table: lower-cased, no trailing dot. `None` if it has
    /// bytes that no host name has, so that no table can have it.
    pub(super) name: Option<String>,
    /// `QTYPE`.
    pub(super) kind: u16,
    /// `QCLASS`.
    pub(super) class: u16,
}

impl Question {
    /// Reads the question behind the header; `None` if it is cut off, its name is longer than
    /// RFC 1035 §3.1 allows, or compressed: nothing before a first question could be pointed at.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let mut at = HEADER_LEN;
        let mut name = Some(String::new());
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            if length > MAX_LABEL {
                return None;
            }
            let label = message.get(at..at + length)?;
            at += length;
            if at - HEADER_LEN >= MAX_NAME {
                return None;
            }
            name = name.and_then(|name| append(name, label));
        }
        let fixed: &[u8; 4] = message.get(at..)?.first_chunk()?;
        let [kind0, kind1, class0, class1] = *fixed;
        Some(Self {
            range: HEADER_LEN..at + fixed.len(),
            name,
            kind: u16::from_be_bytes([kind0, kind1]),
            class: u16::from_be_bytes([class0, class1]),
        })
    }

    /// Its bytes in the message it was read from.
    pub(super) fn bytes<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        message.get(self.range.clone()).unwrap_or_default()
    }
}

fn append(mut name: String, label: &[u8]) -> Option<String> {
    if !name.is_empty() {
        name.push('.');
    }
    for byte in label {
        if !byte.is_ascii_graphic() || *byte == b'.' {
            return None;
        }
        name.push(char::from(byte.to_ascii_lowercase()));
    }
    Some(name)
}

/// Longest label (RFC 1035 §3.1); what is longer is a pointer or a reserved form.
const MAX_LABEL: usize = 63;

/// Longest name on the wire, with the root's zero (RFC 1035 §3.1).
const MAX_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(question: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(question);
        message
    }

    #[test]
    fn headers_are_read_by_bit() {
        let mut bytes = message(&[]);
        let header = Header::read(&bytes).expect("whole");
        assert_eq!((header.id, header.questions), (0x1234, 1));
        assert!(!header.is_response && !header.is_truncated);
        bytes[2] = 0xaa; // response, op code 5, truncated
        bytes[3] = 0x83;
        let header = Header::read(&bytes).expect("whole");
        assert!(header.is_response && header.is_truncated);
        assert_eq!((header.op_code, header.response_code), (5, 3));
        assert_eq!(Header::read(&bytes[..11]), None);
    }

    #[test]
    fn questions_are_found_or_refused() {
        let long = |labels: usize, last: usize| {
            let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(labels);
            name.push(u8::try_from(last).expect("a label"));
            name.extend(vec![b'b'; last]);
            name.extend([0, 0, 1, 0, 1]);
            name
        };
        type Name = Option<&'static str>;
        let table: [(&str, Vec<u8>, Option<Name>); 9] = [
            (
                "case is lost",
                b"\x03SmS\x04Shop\0\0\x01\0\x01".into(),
                Some(Some("sms.shop")),
            ),
            ("the root", b"\0\0\x02\0\x01".into(), Some(Some(""))),
            (
                "a dot in a label",
                b"\x03a.b\0\0\x01\0\x01".into(),
                Some(None),
            ),
            (
                "a byte that is no character",
                b"\x02\xff\x01\0\0\x01\0\x01".into(),
                Some(None),
            ),
            ("compressed", b"\xc0\x0c\0\x01\0\x01".into(), None),
            ("cut in the name", b"\x03sm".into(), None),
            ("cut in the type", b"\x03sms\0\0\x01\0".into(), None),
            ("nothing", Vec::new(), None),
            ("too long", long(3, 62), None),
        ];
        for (what, bytes, expected) in table {
            let question = Question::read(&message(&bytes));
            let name = question.map(|question| question.name);
            assert_eq!(name, expected.map(|name| name.map(str::to_owned)), "{what}");
        }
        assert!(
            Question::read(&message(&long(3, 61))).is_some(),
            "255 bytes are allowed"
        );
    }

    #[test]
    fn type_and_class_follow_the_name() {
        let bytes = message(b"\x01a\0\0\x1c\0\x03rest");
        let question = Question::read(&bytes).expect("whole");
        assert_eq!((question.kind, question.class), (28, 3));
        assert_eq!(question.bytes(&bytes), b"\x01a\0\0\x1c\0\x03");
    }
}
