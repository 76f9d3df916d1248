// SPDX-License-Identifier: Apache-2.0
//! Into and out of `google.protobuf.Any`.
//!
//! The generated crate has an `Any` of its own ([`crate::protobuf::Any`]), which does not convert
//! to that of `prost-types`. Decoding never trusts the sender: a type URL that is not the
//! expected one, and bytes that do not parse, are errors with both names in them.

use prost::{DecodeError, Message, Name};

use crate::protobuf::{Any, Struct};
use crate::typed_struct::TypedStruct;

/// Why an `Any` does not hold what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It holds a message of another type.
    #[error("message of type `{found}`, expected `{expected}`")]
    OtherType {
        /// The full name expected.
        expected: String,
        /// The type URL found.
        found: String,
    },
    /// Its bytes are not a message of its type.
    #[error("decode `{type_url}`")]
    Decode {
        /// The type URL found.
        type_url: String,
        /// Where the bytes stop to parse.
        source: DecodeError,
    },
}

/// Encodes a message into an `Any`.
///
/// Maps inside the message are encoded in no fixed order: see [`crate::canonical`].
pub fn pack<T: Message + Name>(message: &T) -> Any {
    Any {
        type_url: T::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Decodes the message that an `Any` holds. Whatever stands before the last `/` of the type URL
/// is ignored, as Envoy does.
///
/// # Errors
/// If the type is another one, or if the bytes do not parse.
pub fn unpack<T: Message + Name + Default>(any: &Any) -> Result<T, UnpackError> {
    let expected = T::full_name();
    if message_name(&any.type_url) != expected {
        return Err(UnpackError::OtherType {
            expected,
            found: any.type_url.clone(),
        });
    }
    T::decode(any.value.as_slice()).map_err(|source| UnpackError::Decode {
        type_url: any.type_url.clone(),
        source,
    })
}

/// The full message name in a type URL: what follows the last `/`.
pub(crate) fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// What an extension's `Any` says once wrappers are taken off: a message, or JSON-like fields.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload<'a> {
    /// Bytes of the message that `type_url` names.
    Message {
        /// The type URL.
        type_url: &'a str,
        /// The encoded message.
        value: &'a [u8],
    },
    /// The fields of the message that `type_url` names, from a `udpa.type.v1.TypedStruct` or
    /// `xds.type.v3.TypedStruct`.
    Fields {
        /// The inner type URL.
        type_url: String,
        /// The fields by their proto or JSON names.
        fields: Struct,
    },
}

impl<'a> Payload<'a> {
    /// Takes a `TypedStruct` wrapper off, where there is one.
    ///
    /// # Errors
    /// If it is a wrapper whose bytes do not parse.
    pub fn of(any: &'a Any) -> Result<Self, UnpackError> {
        if !TypedStruct::is_wrapper(message_name(&any.type_url)) {
            return Ok(Self::Message {
                type_url: &any.type_url,
                value: &any.value,
            });
        }
        let wrapper =
            TypedStruct::decode(any.value.as_slice()).map_err(|source| UnpackError::Decode {
                type_url: any.type_url.clone(),
                source,
            })?;
        Ok(Self::Fields {
            type_url: wrapper.type_url,
            fields: wrapper.value.unwrap_or_default(),
        })
    }

    /// The type URL of the configuration itself.
    #[must_use]
    pub fn type_url(&self) -> &str {
        match self {
            Self::Message { type_url, .. } => type_url,
            Self::Fields { type_url, .. } => type_url,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Value;
    use crate::protobuf::value::Kind;
    use crate::router::Router;
    use crate::tcp_proxy::TcpProxy;

    #[test]
    fn a_message_comes_back_from_its_any() {
        let router = Router {
            suppress_envoy_headers: true,
            ..Router::default()
        };
        assert_eq!(unpack::<Router>(&pack(&router)), Ok(router));
    }

    #[test]
    fn another_type_and_broken_bytes_are_told_apart() {
        let any = pack(&Router::default());
        assert!(matches!(
            unpack::<TcpProxy>(&any),
            Err(UnpackError::OtherType { .. })
        ));
        let broken = Any {
            value: vec![0xff],
            ..any
        };
        assert!(matches!(
            unpack::<Router>(&broken),
            Err(UnpackError::Decode { .. })
        ));
    }

    #[test]
    fn both_typed_struct_wrappers_are_taken_off() {
        let flag = Value {
            kind: Some(Kind::BoolValue(true)),
        };
        let fields = Struct {
            fields: [("enable".to_owned(), flag)].into(),
        };
        let wrapper = TypedStruct {
            type_url: "type.googleapis.com/io.istio.http.peer_metadata.Config".into(),
            value: Some(fields.clone()),
        };
        for outer in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
            let any = Any {
                type_url: format!("type.googleapis.com/{outer}"),
                value: wrapper.encode_to_vec(),
            };
            let payload = Payload::of(&any).expect("well formed");
            assert_eq!(payload.type_url(), wrapper.type_url);
            assert_eq!(
                payload,
                Payload::Fields {
                    type_url: wrapper.type_url.clone(),
                    fields: fields.clone()
                }
            );
        }
    }
}
