// SPDX-License-Identifier: Apache-2.0
//! The fields of a message: an ordered list with the names' original spelling.
//!
//! A list and not a hash table: messages have some ten to twenty fields, and order and spelling
//! must survive the proxy. A set of one bit per known name answers "is it there?", the most
//! frequent question of the road, without a look at the list.
//!
//! **Invariant:** every name is a token and every value is free of control characters, because
//! fields only come from [`HeaderValue`]s or from the codec, which checks the same.

use std::fmt;

use bytes::Bytes;

use super::known::Known;
use super::{HeaderName, HeaderValue};

/// An ordered multi-map of header fields. Clones share the bytes of names and values.
#[derive(Clone, Default)]
pub struct HeaderMap {
    fields: Vec<Field>,
    /// The union of the bits of the known names in `fields`.
    present: u128,
}

/// One field line.
#[derive(Clone)]
pub(crate) struct Field {
    pub(crate) name: HeaderName,
    pub(crate) spelling: Spelling,
    pub(crate) value: Bytes,
}

/// How a name was spelled on the wire.
#[derive(Clone)]
pub(crate) enum Spelling {
    /// In lower case, as HTTP/2 and fields that the proxy adds.
    Lower,
    /// As the table of known names says.
    Usual(Known),
    /// In some other way.
    Own(Bytes),
}

/// The largest room that is kept for the next message: most have fewer fields. Unit: fields.
const MAX_SPARE: usize = 32;

impl HeaderMap {
    /// An empty map; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            fields: Vec::new(),
            present: 0,
        }
    }

    /// An empty map with room for `fields` fields.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self {
            fields: Vec::with_capacity(fields),
            present: 0,
        }
    }

    /// Sets a field to one value: the first field of the name keeps its place and spelling, all
    /// others of the name go.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let mut value = Some(value.into_bytes());
        if self.contains(&name) {
            self.fields.retain_mut(|field| {
                if field.name != name {
                    return true;
                }
                value.take().map(|value| field.value = value).is_some()
            });
        }
        if let Some(value) = value {
            self.push(Field {
                name,
                spelling: Spelling::Lower,
                value,
            });
        }
    }

    /// Adds a field at the end, whatever is there already.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(Field {
            name,
            spelling: Spelling::Lower,
            value: value.into_bytes(),
        });
    }

    /// Removes all fields of a name; gives back the first value.
    pub fn remove(&mut self, name: &HeaderName) -> Option<Bytes> {
        if !self.contains(name) {
            return None;
        }
        let mut first = None;
        self.fields.retain_mut(|field| {
            let hit = field.name == *name;
            if hit && first.is_none() {
                first = Some(std::mem::take(&mut field.value));
            }
            !hit
        });
        if let Some(known) = name.known() {
            self.present &= !known.bit();
        }
        first
    }

    /// Keeps the fields for which `keep(name, value)` says so, in their order.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &Bytes) -> bool) {
        self.fields.retain(|field| keep(&field.name, &field.value));
        self.present = self
            .fields
            .iter()
            .fold(0, |bits, field| bits | bit(&field.name));
    }

    /// Removes all fields but keeps the room for them.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.present = 0;
    }

    /// An empty map with this one's room, unless that is more than an idle connection may hold.
    pub(crate) fn into_spare(mut self) -> Self {
        if self.fields.capacity() > MAX_SPARE {
            return Self::new();
        }
        self.clear();
        self
    }

    /// Makes room for `fields` more fields.
    pub(crate) fn reserve(&mut self, fields: usize) {
        self.fields.reserve(fields);
    }

    /// Whether any of the known names in the set (a union of [`Known::bit`]s) is there.
    pub(crate) const fn has_any(&self, names: u128) -> bool {
        self.present & names != 0
    }

    /// Adds a field that the codec has checked.
    pub(crate) fn push(&mut self, field: Field) {
        self.present |= bit(&field.name);
        self.fields.push(field);
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&Bytes> {
        self.get_all(name).next()
    }

    /// All values of a name, in order.
    pub fn get_all<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a Bytes> {
        let fields = if self.may_contain(name) {
            self.fields.as_slice()
        } else {
            &[]
        };
        fields
            .iter()
            .filter(move |field| field.name == *name)
            .map(|field| &field.value)
    }

    /// Whether a field of the name is there. For known names this reads one bit.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        match name.known() {
            Some(known) => self.present & known.bit() != 0,
            None => self.fields.iter().any(|field| field.name == *name),
        }
    }

    /// All fields in order: name, name as it was spelled, value.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &[u8], &Bytes)> {
        self.fields
            .iter()
            .map(|field| (&field.name, field.spelled(), &field.value))
    }

    /// The number of fields; repeated names count each time.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The length of all names and values. Unit: bytes, separators not counted.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.fields
            .iter()
            .map(|field| field.spelled().len() + field.value.len())
            .sum()
    }

    fn may_contain(&self, name: &HeaderName) -> bool {
        name.known()
            .is_none_or(|known| self.present & known.bit() != 0)
    }
}

impl Field {
    /// The name as it goes to an HTTP/1 wire.
    pub(crate) fn spelled(&self) -> &[u8] {
        match &self.spelling {
            Spelling::Lower => self.name.as_bytes(),
            Spelling::Usual(known) => known.usual().as_bytes(),
            Spelling::Own(bytes) => bytes,
        }
    }
}

/// Equal if names and values are, in the same order; spelling does not count.
impl PartialEq for HeaderMap {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Field, &Field)| a.name == b.name && a.value == b.value;
        self.len() == other.len() && self.fields.iter().zip(&other.fields).all(same)
    }
}

impl Eq for HeaderMap {}

impl fmt::Debug for HeaderMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.fields.iter().map(|field| (&field.name, &field.value)))
            .finish()
    }
}

impl Extend<(HeaderName, HeaderValue)> for HeaderMap {
    fn extend<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, fields: T) {
        for (name, value) in fields {
            self.append(name, value);
        }
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for HeaderMap {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: T) -> Self {
        let mut map = Self::new();
        map.extend(fields);
        map
    }
}

fn bit(name: &HeaderName) -> u128 {
    name.known().map_or(0, Known::bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &'static str)| {
            (
                name.parse().expect("a token"),
                HeaderValue::from_static(value),
            )
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn repeated_fields_keep_their_order() {
        let fields = map(&[("x-a", "1"), ("via", "p"), ("X-A", "2"), ("x-a", "")]);
        let name = "x-a".parse().expect("a token");
        assert_eq!(fields.get_all(&name).collect::<Vec<_>>(), ["1", "2", ""]);
        assert_eq!(fields.get(&name).map(|v| &**v), Some(&b"1"[..]));
        assert_eq!((fields.len(), fields.byte_size()), (4, 15));
    }

    #[test]
    fn insert_replaces_all_values_in_the_place_of_the_first() {
        let mut fields = map(&[("via", "a"), ("x-b", "b"), ("via", "c")]);
        fields.insert(HeaderName::VIA, HeaderValue::from_static("d"));
        assert_eq!(fields, map(&[("via", "d"), ("x-b", "b")]));
        fields.insert(HeaderName::AGE, HeaderValue::from_static("1"));
        assert_eq!(fields, map(&[("via", "d"), ("x-b", "b"), ("age", "1")]));
    }

    #[test]
    fn what_was_removed_is_no_longer_found() {
        let mut fields = map(&[("via", "a"), ("x-b", "b"), ("via", "c")]);
        assert_eq!(fields.remove(&HeaderName::VIA).as_deref(), Some(&b"a"[..]));
        assert!(!fields.contains(&HeaderName::VIA));
        assert_eq!(fields.remove(&HeaderName::VIA), None);
        fields.append(HeaderName::AGE, HeaderValue::from_static("1"));
        fields.retain(|name, _| *name != HeaderName::AGE);
        assert!(!fields.contains(&HeaderName::AGE));
        assert_eq!(fields, map(&[("x-b", "b")]));
        fields.clear();
        assert!(fields.is_empty() && fields.get(&HeaderName::HOST).is_none());
    }
}
