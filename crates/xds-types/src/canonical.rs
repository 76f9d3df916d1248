// SPDX-License-Identifier: Apache-2.0
//! One byte form for equal messages, and the version that is its hash.
//!
//! Protobuf leaves the order of map entries open, and the generated messages keep maps in hash
//! tables, so two encodings of one message differ between processes, even within one. The
//! canonical form fixes the order on the wire: fields ascending by number (occurrences of one
//! field keep their order), entries of a map ascending by their encoded bytes, and all this again
//! inside messages and inside every `Any` whose type is known. Nothing is dropped or added:
//! unknown fields stay, and the form decodes to an equal message.
//!
//! The control plane sends the canonical form itself, so version and bytes always agree.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{Kind, MessageDescriptor};

use crate::descriptors::find_message;
use crate::protobuf::Any;

/// How deep messages may nest, `Any`s included; what lies deeper is kept as it is.
const MAX_DEPTH: usize = 100;

/// Brings an encoded message into canonical form.
///
/// Bytes that do not parse, and messages of unknown type, come back as they are: equal bytes
/// still have equal versions then.
#[must_use]
pub fn canonical_bytes(type_url: &str, bytes: &[u8]) -> Vec<u8> {
    find_message(type_url)
        .and_then(|message| rewrite(&message, bytes, 0))
        .unwrap_or_else(|| bytes.to_vec())
}

/// Packs a message into an `Any` in canonical form.
pub fn pack<T: prost::Message + prost::Name>(message: &T) -> Any {
    let type_url = T::type_url();
    let value = canonical_bytes(&type_url, &message.encode_to_vec());
    Any { type_url, value }
}

/// The version of canonical bytes: their xxHash64 (seed 0) as 16 hexadecimal digits.
#[must_use]
pub fn version_hash(canonical: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh64::xxh64(canonical, 0))
}

/// One field on the wire: its number, how it sorts among those of its number, its encoding.
struct Chunk {
    number: u32,
    is_map_entry: bool,
    encoded: Vec<u8>,
}

/// `None` if the bytes do not parse or nest too deep.
fn rewrite(message: &MessageDescriptor, mut bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    if depth > MAX_DEPTH {
        return None;
    }
    if message.full_name() == "google.protobuf.Any" {
        return rewrite_any(bytes, depth);
    }
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        let whole = bytes;
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let field = message.get_field(number);
        let payload = take_payload(wire_type, &mut bytes)?;
        let inner = field.as_ref().and_then(|field| match field.kind() {
            Kind::Message(inner) if wire_type == WireType::LengthDelimited => Some(inner),
            _ => None,
        });
        let encoded = match inner {
            Some(inner) => {
                let rewritten = rewrite(&inner, payload, depth + 1);
                delimited(number, rewritten.as_deref().unwrap_or(payload))
            }
            None => whole.get(..whole.len() - bytes.len())?.to_vec(),
        };
        chunks.push(Chunk {
            number,
            is_map_entry: field.is_some_and(|f| f.is_map()),
            encoded,
        });
    }
    chunks.sort_by(|a, b| {
        let entries = || {
            if a.is_map_entry {
                a.encoded.cmp(&b.encoded)
            } else {
                std::cmp::Ordering::Equal
            }
        };
        a.number.cmp(&b.number).then_with(entries)
    });
    Some(chunks.into_iter().flat_map(|chunk| chunk.encoded).collect())
}

fn rewrite_any(bytes: &[u8], depth: usize) -> Option<Vec<u8>> {
    let mut any = <Any as prost::Message>::decode(bytes).ok()?;
    let message = find_message(&any.type_url)?;
    any.value = rewrite(&message, &any.value, depth + 1)?;
    Some(prost::Message::encode_to_vec(&any))
}

/// Moves past one field's value and returns it (without the length of a delimited one).
fn take_payload<'a>(wire_type: WireType, bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = match wire_type {
        WireType::Varint => {
            let before = *bytes;
            decode_varint(bytes).ok()?;
            return before.get(..before.len() - bytes.len());
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(bytes).ok()?).ok()?,
        // Groups: not in proto3.
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let payload = bytes.get(..length)?;
    bytes.advance(length);
    Some(payload)
}

fn delimited(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 10);
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(u64::try_from(payload.len()).unwrap_or(u64::MAX), &mut out);
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::core::Metadata;
    use crate::protobuf::value::Kind as ProtoKind;
    use crate::protobuf::{Struct, Value};
    use crate::{ResourceType, cluster, router};

    fn number(n: f64) -> Value {
        Value {
            kind: Some(ProtoKind::NumberValue(n)),
        }
    }

    /// A cluster whose maps (outer, inner, and one inside an `Any`) have many entries: each call
    /// makes hash tables with seeds of their own, so the plain encodings differ.
    fn with_maps() -> cluster::Cluster {
        let fields = || Struct {
            fields: (0..40)
                .map(|i| (format!("k{i}"), number(i.into())))
                .collect(),
        };
        let metadata = || Metadata {
            filter_metadata: (0..10).map(|i| (format!("ns{i}"), fields())).collect(),
            ..Default::default()
        };
        let typed = |i: u32| (format!("o{i}"), crate::pack(&with_metadata(metadata())));
        cluster::Cluster {
            name: "a".into(),
            typed_extension_protocol_options: (0..5).map(typed).collect(),
            metadata: Some(metadata()),
            ..Default::default()
        }
    }

    fn with_metadata(metadata: Metadata) -> cluster::Cluster {
        cluster::Cluster {
            metadata: Some(metadata),
            ..Default::default()
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes_whatever_the_order_of_their_maps() {
        let plain: std::collections::HashSet<_> =
            (0..8).map(|_| with_maps().encode_to_vec()).collect();
        assert!(
            plain.len() > 1,
            "the plain encodings must differ for this test to mean anything"
        );
        let canonical: std::collections::HashSet<_> =
            (0..8).map(|_| pack(&with_maps()).value).collect();
        assert_eq!(canonical.len(), 1);
    }

    #[test]
    fn the_canonical_form_is_the_same_message_and_is_stable() {
        let message = with_maps();
        let once = pack(&message);
        assert_eq!(once.value.len(), message.encoded_len());
        assert_eq!(canonical_bytes(&once.type_url, &once.value), once.value);
        let decoded = cluster::Cluster::decode(once.value.as_slice()).expect("own bytes");
        assert_eq!(decoded.metadata, message.metadata);
        assert_eq!(decoded.typed_extension_protocol_options.len(), 5);
    }

    #[test]
    fn what_cannot_be_read_is_kept_as_it_is() {
        let url = ResourceType::Cluster.url();
        for bytes in [&[0xff][..], &[0x0a, 5, 1], &[0x0b], &[]] {
            assert_eq!(canonical_bytes(url, bytes), bytes, "{bytes:?}");
        }
        assert_eq!(canonical_bytes("t/no.Such", &[1, 2, 3]), [1, 2, 3]);
        let unknown_field = [&[0xf8, 0xff, 0xff, 0x0f, 7][..], &[0x0a, 1, b'a']].concat();
        let canonical = canonical_bytes(url, &unknown_field);
        assert_eq!(canonical.len(), unknown_field.len(), "unknown fields stay");
    }

    #[test]
    fn versions_are_the_same_in_every_process() {
        let router = pack(&router::Router {
            suppress_envoy_headers: true,
            ..Default::default()
        });
        assert_eq!(version_hash(&router.value), "c71da2c6c4065cd4");
        assert_eq!(version_hash(b""), "ef46db3751d8e999");
    }
}
