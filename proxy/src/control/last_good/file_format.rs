// SPDX-License-Identifier: Apache-2.0
//! The bytes of the last good configuration.
//!
//! ```text
//!   magic 16 | format u32 | body length u64 | xxHash64 of the body u64 | body
//!   body:     node id, resource count u32, then for each: type URL, name, version, message
//! ```
//!
//! Integers are little-endian; texts and messages are preceded by their length (u32). The format
//! is a promise within one version number only: another number is refused, not guessed at.

use bytes::{Buf as _, Bytes};
use remora_xds_types::ResourceType;
use xxhash_rust::xxh64::xxh64;

use super::{Contents, KeptResource};

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin like one.
    #[error("it is no last good configuration")]
    NoMagic,
    /// It was written by another version of the program.
    #[error("its format is {found}, this program knows {FORMAT}")]
    OtherFormat {
        /// The number found.
        found: u32,
    },
    /// It is shorter or longer than it says.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// By its header.
        expected: u64,
        /// Of the file.
        found: u64,
    },
    /// Its bytes are not those that were written.
    #[error("its checksum is {found:016x}, expected {expected:016x}")]
    Checksum {
        /// By its header.
        expected: u64,
        /// Of the body.
        found: u64,
    },
    /// The checksum holds, but the contents make no sense.
    #[error("its contents do not parse: {0}")]
    Contents(&'static str),
}

/// Writes the file's bytes.
pub fn encode<'a>(node_id: &str, resources: impl Iterator<Item = &'a KeptResource>) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body, node_id.as_bytes());
    let count_at = body.len();
    body.extend_from_slice(&0_u32.to_le_bytes());
    let mut count = 0_u32;
    for resource in resources {
        put(&mut body, resource.kind.url().as_bytes());
        put(&mut body, resource.name.as_bytes());
        put(&mut body, resource.version.as_bytes());
        put(&mut body, &resource.body);
        count += 1;
    }
    if let Some(place) = body.get_mut(count_at..count_at + 4) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    let mut file = Vec::with_capacity(HEADER + body.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT.to_le_bytes());
    file.extend_from_slice(&wide(body.len()).to_le_bytes());
    file.extend_from_slice(&xxh64(&body, 0).to_le_bytes());
    file.append(&mut body);
    file
}

/// Reads the file's bytes; the messages share their memory.
///
/// # Errors
/// If any byte is not as it was written.
pub fn decode(file: &Bytes) -> Result<Contents, Damage> {
    let mut rest = file.clone();
    if rest.len() < HEADER || rest.split_to(MAGIC.len()).as_ref() != MAGIC {
        return Err(Damage::NoMagic);
    }
    let format = rest.get_u32_le();
    if format != FORMAT {
        return Err(Damage::OtherFormat { found: format });
    }
    let (length, checksum) = (rest.get_u64_le(), rest.get_u64_le());
    if wide(rest.len()) != length {
        return Err(Damage::Length {
            expected: wide(HEADER).saturating_add(length),
            found: wide(file.len()),
        });
    }
    let found = xxh64(&rest, 0);
    if found != checksum {
        return Err(Damage::Checksum {
            expected: checksum,
            found,
        });
    }
    read_body(rest)
}

fn read_body(mut body: Bytes) -> Result<Contents, Damage> {
    let node_id = take_text(&mut body)?;
    let count = body
        .try_get_u32_le()
        .map_err(|_| Damage::Contents("no resource count"))?;
    let mut resources = Vec::new();
    for _ in 0..count {
        let type_url = take_text(&mut body)?;
        let kind = ResourceType::from_url(&type_url)
            .ok_or(Damage::Contents("a resource of an unknown type"))?;
        resources.push(KeptResource {
            kind,
            name: take_text(&mut body)?.into(),
            version: take_text(&mut body)?.into(),
            body: take(&mut body)?,
        });
    }
    if !body.is_empty() {
        return Err(Damage::Contents("bytes after the last resource"));
    }
    Ok(Contents { node_id, resources })
}

fn take_text(body: &mut Bytes) -> Result<String, Damage> {
    String::from_utf8(take(body)?.into()).map_err(|_| Damage::Contents("a text that is not UTF-8"))
}

fn take(body: &mut Bytes) -> Result<Bytes, Damage> {
    let cut = Damage::Contents("a field that is cut off");
    let length = body.try_get_u32_le().map_err(|_| cut.clone())?;
    match usize::try_from(length) {
        Ok(length) if length <= body.len() => Ok(body.split_to(length)),
        _ => Err(cut),
    }
}

/// Appends a field. What is longer than 4 GiB cannot have come over the wire, whose messages are
/// bounded; it would be cut, and refused when read.
fn put(body: &mut Vec<u8>, field: &[u8]) {
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(field);
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

const MAGIC: &[u8; 16] = b"remora last good";

/// Raised with every change of the layout.
pub(super) const FORMAT: u32 = 1;

/// Bytes before the body.
pub(super) const HEADER: usize = 16 + 4 + 8 + 8;
