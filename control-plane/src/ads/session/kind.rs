// SPDX-License-Identifier: Apache-2.0
//! One kind of resource on one stream: what the node wants, holds and has answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use remora_compile::Resource;
use remora_xds_types::ResourceType;
use serde::Serialize;

use super::Variant;
use crate::ads::snapshot::{KindSnapshot, version_of};

#[derive(Debug, Default)]
pub(super) struct KindState {
    /// Whether everything is wanted; else only `names`.
    pub(super) is_wildcard: bool,
    pub(super) names: BTreeSet<String>,
    /// What the node holds, or is being sent.
    held: BTreeMap<String, Held>,
    /// Wanted names that the node was told do not exist (delta).
    absent: BTreeSet<String>,
    /// An answer is due even if there is nothing to send.
    pub(super) owes_answer: bool,
    /// The snapshot against which nothing is left to send or take away; unset by any change.
    settled: Option<Arc<KindSnapshot>>,
    in_flight: VecDeque<InFlight>,
    /// The mark of the last push.
    pub(super) last_nonce: String,
    accepted_version: String,
    refusal: Option<String>,
    pushes: u64,
}

/// A resource on the node's side.
#[derive(Debug)]
enum Held {
    /// Sent by this process, or agreed to be the same.
    Ours(Arc<Resource>),
    /// Held from an earlier stream; only its version is known.
    Told(String),
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    version: String,
}

/// What an answer was.
pub(super) enum Answer {
    Accepted,
    Refused(String),
    Stale,
}

/// What is to be added.
pub(super) struct Additions {
    pub(super) resources: Vec<Arc<Resource>>,
    /// Wanted names that do not exist.
    pub(super) absent: Vec<String>,
    /// Names among `resources` of which the node held another version.
    pub(super) replaced: Vec<String>,
}

/// How one kind is doing on one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindStatus {
    /// The short name of the kind: `cds`, `eds`, `lds`, `rds`, `sds`, `nds`.
    pub kind: &'static str,
    /// Resources held, or on their way.
    pub held: usize,
    /// The version that was accepted last; empty if the node was never sent anything.
    pub accepted_version: String,
    /// Pushes on this stream.
    pub pushes: u64,
    /// Pushes that are not answered.
    pub in_flight: usize,
    /// Whether the node holds, and has not refused, what the newest snapshot has for it.
    pub is_synced: bool,
    /// Why the node refused the last push, if it did.
    pub refusal: Option<String>,
}

impl Held {
    fn version(&self) -> &str {
        match self {
            Self::Ours(resource) => &resource.version,
            Self::Told(version) => version,
        }
    }

    fn is(&self, resource: &Arc<Resource>) -> bool {
        match self {
            Self::Ours(held) if Arc::ptr_eq(held, resource) => true,
            _ => self.version() == resource.version,
        }
    }
}

impl KindState {
    /// A kind that was asked for; whether for everything, and whether an answer is due in any case.
    pub(super) fn new(is_wildcard: bool, owes_answer: bool) -> Self {
        Self {
            is_wildcard,
            owes_answer,
            ..Self::default()
        }
    }

    /// The resources of the snapshot that the node wants.
    pub(super) fn wanted<'a>(
        &'a self,
        named: &'a KindSnapshot,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let all = self
            .is_wildcard
            .then(|| named.values())
            .into_iter()
            .flatten();
        let by_name = self.names.iter().filter(|_| !self.is_wildcard);
        all.chain(by_name.filter_map(|name| named.get(name)))
    }

    /// Whether the node wants this name.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.is_wildcard || self.names.contains(name)
    }

    /// The node says that it holds this from an earlier stream.
    pub(super) fn tell_held(&mut self, name: String, version: String) {
        if self.wants(&name) {
            self.held.insert(name, Held::Told(version));
            self.settled = None;
        }
    }

    /// The node holds exactly what the snapshot has for it.
    pub(super) fn agree(&mut self, named: &KindSnapshot) {
        let held =
            |resource: &Arc<Resource>| (resource.name.clone(), Held::Ours(Arc::clone(resource)));
        self.held = self.wanted(named).map(held).collect();
        self.accepted_version = self.held_version();
    }

    /// The node wants this; what it may hold of it counts for nothing.
    pub(super) fn subscribe(&mut self, name: String) {
        self.forget(&name);
        self.names.insert(name);
    }

    /// The node is to be sent this again.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(name);
        self.absent.remove(name);
        self.settled = None;
    }

    /// The node wants these, and no others.
    pub(super) fn set_interest(&mut self, is_wildcard: bool, names: BTreeSet<String>) {
        if self.is_wildcard == is_wildcard && self.names == names {
            return;
        }
        self.is_wildcard = is_wildcard;
        self.names = names;
        self.trim();
    }

    /// Forgets what is not wanted any more.
    pub(super) fn trim(&mut self) {
        self.settled = None;
        if !self.is_wildcard {
            self.held.retain(|name, _| self.names.contains(name));
        }
        self.absent.retain(|name| self.names.contains(name));
    }

    /// What the node lacks, marked as held. `None` if nothing is to be sent.
    pub(super) fn additions(
        &mut self,
        variant: Variant,
        kind: ResourceType,
        named: &Arc<KindSnapshot>,
    ) -> Option<Additions> {
        if self.is_settled(named) {
            return None;
        }
        let lacks = |resource: &&Arc<Resource>| {
            self.held
                .get(&resource.name)
                .is_none_or(|held| !held.is(resource))
        };
        let mut resources: Vec<_> = self.wanted(named).filter(lacks).cloned().collect();
        if variant == Variant::Delta {
            cut_to_size(&mut resources);
        }
        let absent = if variant == Variant::Delta {
            self.absentees(named)
        } else {
            Vec::new()
        };
        let is_due = std::mem::take(&mut self.owes_answer);
        if resources.is_empty() && absent.is_empty() && !is_due {
            return None;
        }
        let mut replaced = Vec::new();
        for resource in &resources {
            let held = Held::Ours(Arc::clone(resource));
            if self.held.insert(resource.name.clone(), held).is_some() {
                replaced.push(resource.name.clone());
            }
            self.absent.remove(&resource.name);
        }
        self.absent.extend(absent.iter().cloned());
        if variant == Variant::Sotw && (kind.is_full_state() || is_due) {
            resources = self.held_resources();
        }
        Some(Additions {
            resources,
            absent,
            replaced,
        })
    }

    /// What the node holds and the snapshot has no more, marked as taken away.
    pub(super) fn removals(&mut self, named: &Arc<KindSnapshot>) -> Vec<String> {
        if self.is_settled(named) {
            return Vec::new();
        }
        let gone: Vec<String> = self
            .held
            .keys()
            .filter(|name| !named.contains_key(*name))
            .cloned()
            .collect();
        for name in &gone {
            self.held.remove(name);
            if self.names.contains(name) {
                self.absent.insert(name.clone());
            }
        }
        self.settled = Some(Arc::clone(named));
        gone
    }

    /// A push left.
    pub(super) fn sent(&mut self, nonce: &str, version: &str) {
        self.last_nonce = nonce.to_owned();
        self.pushes += 1;
        self.in_flight.push_back(InFlight {
            nonce: nonce.to_owned(),
            version: version.to_owned(),
        });
    }

    /// The node answered. Earlier pushes of the kind are answered with it.
    pub(super) fn settle(&mut self, nonce: &str, refusal: Option<String>) -> Answer {
        let Some(position) = self.in_flight.iter().position(|push| push.nonce == nonce) else {
            return Answer::Stale;
        };
        let answered = self.in_flight.drain(..=position).next_back();
        self.refusal.clone_from(&refusal);
        match (refusal, answered) {
            (Some(reason), _) => Answer::Refused(reason),
            (None, Some(push)) => {
                self.accepted_version = push.version;
                Answer::Accepted
            }
            (None, None) => Answer::Stale,
        }
    }

    /// The version of everything the node holds once it accepted what is in flight.
    pub(super) fn held_version(&self) -> String {
        version_of(
            self.held
                .iter()
                .map(|(name, held)| (name.as_str(), held.version())),
        )
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) const fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    pub(super) fn status(&self, kind: ResourceType, named: &Arc<KindSnapshot>) -> KindStatus {
        KindStatus {
            kind: kind.short(),
            held: self.held.len(),
            accepted_version: self.accepted_version.clone(),
            pushes: self.pushes,
            in_flight: self.in_flight.len(),
            is_synced: self.is_settled(named)
                && self.in_flight.is_empty()
                && self.refusal.is_none(),
            refusal: self.refusal.clone(),
        }
    }

    fn is_settled(&self, named: &Arc<KindSnapshot>) -> bool {
        !self.owes_answer
            && self
                .settled
                .as_ref()
                .is_some_and(|settled| Arc::ptr_eq(settled, named))
    }

    /// Wanted names that do not exist and of which the node does not know it. What it holds is
    /// not among them: taking that away comes last.
    fn absentees(&self, named: &KindSnapshot) -> Vec<String> {
        let is_news = |name: &&String| {
            !named.contains_key(*name)
                && !self.held.contains_key(*name)
                && !self.absent.contains(*name)
        };
        self.names.iter().filter(is_news).cloned().collect()
    }

    fn held_resources(&self) -> Vec<Arc<Resource>> {
        let ours = |held: &Held| match held {
            Held::Ours(resource) => Some(Arc::clone(resource)),
            Held::Told(_) => None,
        };
        self.held.values().filter_map(ours).collect()
    }
}

/// Keeps a response below what common clients accept; the rest goes with the next one.
fn cut_to_size(resources: &mut Vec<Arc<Resource>>) {
    let mut bytes = 0_usize;
    let fits = resources.iter().take_while(|resource| {
        bytes = bytes.saturating_add(resource.body.len() + resource.name.len());
        bytes <= MAX_PUSH_BYTES
    });
    let count = fits.count().max(1);
    resources.truncate(count);
}

/// Longest response of the delta variant. Unit: bytes. gRPC clients refuse 4 MiB by default.
const MAX_PUSH_BYTES: usize = 2 * 1024 * 1024;
