// SPDX-License-Identifier: Apache-2.0
//! The three verdicts, and the macro that takes a message apart by them.
//!
//! `fields!` destructures a message without `..`: a field that the API gains, or that is listed
//! and not used, does not compile. What is listed as ignored is reported if it is set, what is
//! listed as refused is a fault if it is set, and the same list is the message's table in the
//! compatibility page.

use std::collections::HashMap;

use remora_xds_types::Name;

use crate::fault::Scope;

/// What is done with a field or an extension type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It does what Envoy documents, within the note.
    Honoured,
    /// It cannot change where a request goes or who may pass; it is reported.
    Ignored,
    /// A resource that has it is not accepted.
    Refused,
}

impl Verdict {
    /// The word in the compatibility page.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

/// A field's or type's name, its verdict, and the reason or the bounds.
pub(crate) type Row = (&'static str, Verdict, &'static str);

/// A message whose fields have verdicts; implemented by `fields!`.
pub(crate) trait Described: Name {
    /// All fields, in the order they are listed.
    const FIELDS: &'static [Row];
}

/// Whether a field has another value than an absent one.
pub(crate) trait IsSet {
    /// The answer.
    fn is_set(&self) -> bool;
}

macro_rules! is_set_by_default {
    ($($ty:ty),*) => {
        $(impl IsSet for $ty {
            fn is_set(&self) -> bool {
                *self != Self::default()
            }
        })*
    };
}

is_set_by_default!(bool, i32, i64, u32, u64, String);

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// A field's name, whether it is set, and the note on it.
pub(crate) type Seen = (&'static str, bool, &'static str);

/// Reports the ignored fields of a message that are set.
pub(crate) fn ignore<M: Name>(scope: &Scope<'_>, fields: &[Seen]) {
    for (field, _, note) in fields.iter().filter(|(_, is_set, _)| *is_set) {
        let field = plain(field);
        let subject = format!("{}.{field}", M::full_name());
        scope.field(field).notice(&subject, note);
    }
}

/// Makes the refused fields that are set faults.
pub(crate) fn refuse(scope: &Scope<'_>, fields: &[Seen]) {
    for (field, _, note) in fields.iter().filter(|(_, is_set, _)| *is_set) {
        let at = scope.field(plain(field));
        at.fault(format!("not supported: {note}"));
    }
}

/// A field's name without the mark of a raw identifier.
pub(crate) fn plain(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Takes a message apart: see the module's text. After it, each honoured field is a variable.
///
/// ```text
/// fields! { scope, message: endpoint::Endpoint {
///     honoured { address, hostname }
///     ignored { observability_name: "statistics only" }
///     refused { additional_addresses: "one address each" }
/// }}
/// ```
macro_rules! fields {
    ($scope:expr, $message:ident : $module:ident $(:: $part:ident)* {
        honoured { $($h:ident $(: $h_note:literal)?),* $(,)? }
        ignored { $($i:ident : $i_note:literal),* $(,)? }
        refused { $($r:ident : $r_note:literal),* $(,)? }
    }) => {
        #[allow(non_local_definitions, reason = "the table belongs beside the code it is true of")]
        impl $crate::verdict::Described for $module $(:: $part)* {
            const FIELDS: &'static [$crate::verdict::Row] = &[
                $((stringify!($h), $crate::verdict::Verdict::Honoured, concat!($($h_note)?)),)*
                $((stringify!($i), $crate::verdict::Verdict::Ignored, $i_note),)*
                $((stringify!($r), $crate::verdict::Verdict::Refused, $r_note),)*
            ];
        }
        #[allow(deprecated, reason = "a deprecated field has a verdict too")]
        let $module $(:: $part)* { $($h,)* $($i,)* $($r,)* } = $message;
        $crate::verdict::ignore::<$module $(:: $part)*>(
            $scope,
            &[$((stringify!($i), $crate::verdict::IsSet::is_set(&$i), $i_note)),*],
        );
        $crate::verdict::refuse(
            $scope,
            &[$((stringify!($r), $crate::verdict::IsSet::is_set(&$r), $r_note)),*],
        );
    };
}
