// SPDX-License-Identifier: Apache-2.0
//! Names of resources, and the slots that clusters are referred to by.
//!
//! A route names its cluster long before and after that cluster exists, and route tables outlive
//! snapshots. So a name is given a [`ClusterSlot`]: a stable index into every snapshot's cluster
//! table. An index is handed on only when nothing holds its slot any more, so a route that is
//! still in use can never reach another cluster than the one it named, and no request hashes a
//! name.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

macro_rules! resource_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes the name; any text is one.
            #[must_use]
            pub fn new(name: &str) -> Self {
                Self(name.into())
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

resource_name!(
    /// The name of a cluster, such as `outbound|80|v1|sms.shop.svc.cluster.local`.
    ClusterName
);
resource_name!(
    /// The name of a listener.
    ListenerName
);
resource_name!(
    /// The name of a route configuration.
    RouteName
);

/// A cluster's place in every snapshot's cluster table; equal names have the same slot.
#[derive(Debug)]
pub struct ClusterSlot {
    name: ClusterName,
    index: usize,
    table: Weak<Mutex<Slots>>,
}

impl ClusterSlot {
    /// The cluster's name.
    #[must_use]
    pub const fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The index in a snapshot's cluster table.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }
}

impl Drop for ClusterSlot {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .release(&self.name, self.index);
        }
    }
}

/// Hands out slots; one for a proxy, owned by the side that assembles snapshots.
#[derive(Clone, Debug, Default)]
pub struct SlotTable(Arc<Mutex<Slots>>);

#[derive(Debug, Default)]
struct Slots {
    by_name: HashMap<ClusterName, (usize, Weak<ClusterSlot>)>,
    free: Vec<usize>,
    next: usize,
}

impl SlotTable {
    /// The slot of a name, new if nobody holds it.
    #[must_use]
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.by_name.get(name).and_then(|(_, held)| held.upgrade()) {
            return slot;
        }
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.next += 1;
            slots.next - 1
        });
        let name = ClusterName::new(name);
        let slot = Arc::new(ClusterSlot {
            name: name.clone(),
            index,
            table: Arc::downgrade(&self.0),
        });
        slots.by_name.insert(name, (index, Arc::downgrade(&slot)));
        slot
    }
}

impl Slots {
    /// Frees an index whose last holder is gone. The name may have been given another slot in
    /// the meantime, which then stays.
    fn release(&mut self, name: &ClusterName, index: usize) {
        if self
            .by_name
            .get(name)
            .is_some_and(|(held, _)| *held == index)
        {
            self.by_name.remove(name);
        }
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_slot_while_anyone_holds_it() {
        let table = SlotTable::default();
        let first = table.slot("a");
        assert_eq!(table.slot("a").index(), first.index());
        assert_ne!(table.slot("b").index(), first.index());
    }

    #[test]
    fn an_index_is_handed_on_only_after_its_last_holder_is_gone() {
        let table = SlotTable::default();
        let a = table.slot("a");
        let index = a.index();
        let held = Arc::clone(&a);
        drop(a);
        assert_ne!(table.slot("b").index(), index);
        drop(held);
        assert_eq!(table.slot("c").index(), index);
        for n in 0..1000 {
            assert!(
                table.slot(&n.to_string()).index() < 3,
                "churn grows nothing"
            );
        }
    }
}
