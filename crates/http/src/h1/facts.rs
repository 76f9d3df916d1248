// SPDX-License-Identifier: Apache-2.0
//! What the fields of a head say about framing and about the connection.
//!
//! The rules are the same for requests and responses; `request` and `response` add what differs.
//! Lengths and codings are judged here and nowhere else. Source: RFC 9112 sections 6 and 9.

use bytes::Bytes;

use super::refusal::Refusal;
use crate::chars;
use crate::framing::BodyFraming;
use crate::head::Version;
use crate::header::{Field, Known};

/// The facts of one head.
#[derive(Debug, Default)]
pub(super) struct Facts {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_nominated: bool,
    upgrade: Upgrade,
    pub(super) expect_continue: bool,
    pub(super) host: Option<Bytes>,
}

#[derive(Debug, Default)]
enum Upgrade {
    #[default]
    None,
    Once(Bytes),
    /// More than one line: which one would be taken is not agreed on, so none is.
    Repeated,
}

impl Facts {
    /// Takes in one field; false if the field has been lifted out of the list (`Host`).
    pub(super) fn read(&mut self, field: &Field) -> Result<bool, Refusal> {
        let Some(known) = field.name.known() else {
            return Ok(true);
        };
        match known {
            Known::HOST => {
                if self.host.replace(field.value.clone()).is_some() {
                    return Err(Refusal::RepeatedHost);
                }
                return Ok(false);
            }
            Known::CONTENT_LENGTH => self.read_content_length(&field.value)?,
            Known::TRANSFER_ENCODING => self.read_coding(&field.value)?,
            Known::CONNECTION => self.read_connection(&field.value),
            Known::UPGRADE => {
                self.upgrade = match self.upgrade {
                    Upgrade::None => Upgrade::Once(field.value.clone()),
                    _ => Upgrade::Repeated,
                }
            }
            Known::EXPECT => {
                self.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
        Ok(true)
    }

    /// Even a repetition that agrees is refused: others have read the two differently.
    fn read_content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        match self.length.replace(read_length(value)?) {
            None => Ok(()),
            Some(_) => Err(Refusal::RepeatedLength),
        }
    }

    fn read_coding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked {
            return Err(Refusal::EncodingList);
        }
        check_coding(value)?;
        self.chunked = true;
        Ok(())
    }

    fn read_connection(&mut self, value: &[u8]) {
        for option in chars::list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade_nominated |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    /// The framing that the fields give, or `otherwise` if they give none.
    pub(super) const fn framing(
        &self,
        version: Version,
        otherwise: BodyFraming,
    ) -> Result<BodyFraming, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::LengthAndEncoding),
            (true, None) if matches!(version, Version::Http10) => Err(Refusal::EncodingInHttp10),
            (true, None) => Ok(BodyFraming::Chunked),
            (false, Some(length)) => Ok(BodyFraming::Length(length)),
            (false, None) => Ok(otherwise),
        }
    }

    /// Whether the peer wants the connection to stay. RFC 9112 section 9.3.
    pub(super) const fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            _ => !self.close,
        }
    }

    /// The protocols of an upgrade that is asked for properly. RFC 9110 section 7.8.
    pub(super) fn into_upgrade(self) -> Option<Bytes> {
        match self.upgrade {
            Upgrade::Once(protocols) if self.upgrade_nominated && !protocols.is_empty() => {
                Some(protocols)
            }
            _ => None,
        }
    }
}

/// Decimal digits and nothing else: no sign, no list, no blank. RFC 9110 section 8.6.
fn read_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() {
        return Err(Refusal::Length);
    }
    let step = |sum: u64, byte: &u8| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    };
    value.iter().try_fold(0, step).ok_or(Refusal::Length)
}

/// Exactly one `chunked`; what is well-formed but not implemented is told apart from nonsense.
fn check_coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let is_token = |coding: &[u8]| coding.iter().all(|b| chars::is_token(*b));
    let (count, chunked) = chars::list(value).fold((0_usize, 0_usize), |(n, c), coding| {
        (n + 1, c + usize::from(is_chunked(coding)))
    });
    let last_is_chunked = chars::list(value).last().is_some_and(is_chunked);
    let alone = count == 1 && chunked == 0;
    let well_formed = alone || (chunked == 1 && last_is_chunked && count > 1);
    if well_formed && chars::list(value).all(is_token) {
        return Err(Refusal::Encoding);
    }
    Err(Refusal::EncodingList)
}
