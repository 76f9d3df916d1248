// SPDX-License-Identifier: Apache-2.0
//! How much CPU this process may use: the cgroup's quota and the scheduler's mask.
//!
//! Answers for reading the two and taking the smaller. The standard library's
//! `available_parallelism` rounds a quota of one and a half CPUs down to one, which is the very
//! case where a second worker pays. Both cgroup versions are read; of nested groups the tightest
//! counts. Where nothing can be read, nothing is limited.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// CPU time that may be used per second of wall time. Unit: thousandths of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuAllowance(u32);

impl CpuAllowance {
    /// An allowance of `millis` thousandths of a CPU.
    #[must_use]
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }

    /// Thousandths of a CPU.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// The default number of workers: one up to one CPU, two above.
    #[must_use]
    pub const fn default_workers(self) -> NonZeroUsize {
        const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
        if self.0 > 1000 {
            TWO
        } else {
            NonZeroUsize::MIN
        }
    }
}

/// Reads this process' allowance: the tighter of scheduler mask and cgroup quota.
#[must_use]
pub fn cpu_allowance() -> CpuAllowance {
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |mask| mask.count());
    let by_mask = CpuAllowance(cpus.max(1).saturating_mul(1000));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    tightest_quota(&groups, Path::new("/sys/fs/cgroup"))
        .map_or(by_mask, |by_quota| by_quota.min(by_mask))
}

/// The smallest quota on the way from the process' groups up to the root of the file system.
fn tightest_quota(proc_self_cgroup: &str, root: &Path) -> Option<CpuAllowance> {
    let mut tightest = None;
    for line in proc_self_cgroup.lines() {
        // `hierarchy-id:controllers:path`; version 2 has id 0 and no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (base, read): (PathBuf, fn(&Path) -> Option<CpuAllowance>) = if id == "0" {
            (root.to_owned(), read_version_2)
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            (root.join(controllers), read_version_1)
        } else {
            continue;
        };
        // In a container the path may name a group of the host; the mount's root is then ours.
        let mut group = base.join(path.trim_start_matches('/'));
        while group.starts_with(&base) {
            if let Some(quota) = read(&group) {
                tightest = Some(tightest.map_or(quota, |seen: CpuAllowance| seen.min(quota)));
            }
            if !group.pop() {
                break;
            }
        }
    }
    tightest
}

fn read_version_2(group: &Path) -> Option<CpuAllowance> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    quota(words.next()?, words.next()?)
}

fn read_version_1(group: &Path) -> Option<CpuAllowance> {
    let read = |file| fs::read_to_string(group.join(file)).ok();
    quota(
        read("cpu.cfs_quota_us")?.trim(),
        read("cpu.cfs_period_us")?.trim(),
    )
}

/// Microseconds of CPU per period, both as text; `max` and `-1` stand for no limit.
fn quota(used: &str, period: &str) -> Option<CpuAllowance> {
    let used: u64 = used.parse().ok()?;
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    let millis = used.saturating_mul(1000).div_ceil(period);
    Some(CpuAllowance(
        u32::try_from(millis).unwrap_or(u32::MAX).max(1),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("quota-{}-{name}", std::process::id()));
            for (file, text) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().expect("parent")).expect("folder");
                fs::write(path, text).expect("file");
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn allowance(millis: u32) -> Option<CpuAllowance> {
        Some(CpuAllowance(millis))
    }

    #[test]
    fn the_quota_is_read_from_either_version() {
        let tree = Tree::new(
            "versions",
            &[
                ("pod/app/cpu.max", "150000 100000\n"),
                ("pod/cpu.max", "max 100000\n"),
                ("cpu,cpuacct/pod/cpu.cfs_quota_us", "50000\n"),
                ("cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(tightest_quota("0::/pod/app\n", &tree.0), allowance(1500));
        assert_eq!(tightest_quota("0::/pod\n", &tree.0), None);
        assert_eq!(
            tightest_quota("4:cpu,cpuacct:/pod\n", &tree.0),
            allowance(500)
        );
        assert_eq!(
            tightest_quota("7:memory:/pod\n0::/pod/app\n", &tree.0),
            allowance(1500)
        );
    }

    #[test]
    fn the_tightest_of_nested_groups_counts() {
        let tree = Tree::new(
            "nested",
            &[
                ("a/b/cpu.max", "400000 100000"),
                ("a/cpu.max", "90000 100000"),
            ],
        );
        assert_eq!(tightest_quota("0::/a/b", &tree.0), allowance(900));
    }

    #[test]
    fn a_path_that_is_not_mounted_here_falls_back_to_the_mounts_root() {
        let tree = Tree::new("container", &[("cpu.max", "200000 100000")]);
        assert_eq!(
            tightest_quota("0::/kubepods/pod1/abc", &tree.0),
            allowance(2000)
        );
    }

    #[test]
    fn nonsense_limits_nothing() {
        for (used, period) in [
            ("", ""),
            ("max", "100000"),
            ("-1", "1"),
            ("5", "0"),
            ("x", "y"),
        ] {
            assert_eq!(quota(used, period), None, "{used:?} {period:?}");
        }
        assert_eq!(
            tightest_quota("garbage\n::\n1:cpu\n", Path::new("/nowhere")),
            None
        );
    }

    #[test]
    fn one_worker_up_to_one_cpu_two_above() {
        for (millis, workers) in [(1, 1), (500, 1), (1000, 1), (1001, 2), (8000, 2)] {
            assert_eq!(
                CpuAllowance(millis).default_workers().get(),
                workers,
                "{millis}"
            );
        }
        assert!(cpu_allowance().as_millis() > 0);
    }
}
