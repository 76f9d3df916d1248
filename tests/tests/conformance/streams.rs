// SPDX-License-Identifier: Apache-2.0
use super::case::Case;
pub(crate) const CASES: &[Case] = &[];
