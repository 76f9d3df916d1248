// SPDX-License-Identifier: Apache-2.0
use std::os::unix::fs::PermissionsExt as _;

use super::file_format::{FORMAT, HEADER};
use super::*;

fn resource(kind: ResourceType, name: &str, body: &'static [u8]) -> KeptResource {
    KeptResource {
        kind,
        name: name.into(),
        version: "v1".into(),
        body: Bytes::from_static(body),
    }
}

fn some() -> Vec<KeptResource> {
    vec![
        resource(ResourceType::Cluster, "outbound|80||a", b"cluster"),
        resource(ResourceType::Listener, "virtualOutbound", b""),
    ]
}

fn file() -> Vec<u8> {
    encode("node", some().iter())
}

#[test]
fn what_is_written_is_read() {
    let contents = decode(&Bytes::from(file())).expect("own bytes");
    assert_eq!(contents.node_id, "node");
    assert_eq!(contents.resources, some());
}

#[test]
fn any_flipped_byte_is_refused_and_the_refusal_names_its_kind() {
    let whole = file();
    for at in 0..whole.len() {
        for bit in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= bit;
            let damage = decode(&Bytes::from(bytes)).expect_err("one byte differs");
            let is_expected = match at {
                0..16 => damage == Damage::NoMagic,
                16..20 => matches!(damage, Damage::OtherFormat { .. }),
                20..28 => matches!(damage, Damage::Length { .. }),
                _ => matches!(damage, Damage::Checksum { .. }),
            };
            assert!(is_expected, "byte {at}: {damage}");
        }
    }
}

#[test]
fn any_other_length_is_refused() {
    let whole = file();
    for end in 0..whole.len() {
        let damage = decode(&Bytes::copy_from_slice(&whole[..end])).expect_err("cut");
        let expected = matches!(damage, Damage::NoMagic | Damage::Length { .. });
        assert!(expected, "cut at {end}: {damage}");
    }
    let longer = [whole.as_slice(), b"x"].concat();
    let damage = decode(&Bytes::from(longer)).expect_err("longer");
    let (expected, found) = (whole.len() as u64, whole.len() as u64 + 1);
    assert_eq!(damage, Damage::Length { expected, found });
}

#[test]
fn a_newer_format_is_named() {
    let mut bytes = file();
    bytes[16..20].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    let damage = decode(&Bytes::from(bytes)).expect_err("newer");
    assert_eq!(damage.to_string(), "its format is 2, this program knows 1");
}

/// A file whose checksum holds over a body of our making.
fn with_body(body: &[u8]) -> Bytes {
    let mut bytes = file()[..HEADER].to_vec();
    bytes[20..28].copy_from_slice(&(body.len() as u64).to_le_bytes());
    bytes[28..36].copy_from_slice(&xxh64(body, 0).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes.into()
}

#[test]
fn nonsense_under_a_right_checksum_is_refused_without_a_panic() {
    let whole = file();
    let body = &whole[HEADER..];
    for end in 0..body.len() {
        let damage = decode(&with_body(&body[..end])).expect_err("cut");
        assert!(matches!(damage, Damage::Contents(_)), "{end}: {damage}");
    }
    for at in 0..body.len() {
        let mut bytes = body.to_vec();
        bytes[at] = 0xff;
        // Any answer but a panic: a changed name, for one, is a name.
        let _ = decode(&with_body(&bytes));
    }
    let endless = [&0_u32.to_le_bytes()[..], &u32::MAX.to_le_bytes()[..]].concat();
    assert!(decode(&with_body(&endless)).is_err());
    assert_eq!(
        decode(&with_body(&[body, b"x"].concat())),
        Err(Damage::Contents("bytes after the last resource"))
    );
}

#[test]
fn the_file_is_its_owners_and_holds_no_private_key() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(&directory.path().join("deep/er"), "node");
    assert_eq!(store.load().expect("absent"), None);
    let mut resources = some();
    resources.push(resource(ResourceType::Secret, "default", b"key material"));
    let with_key = b"-----BEGIN RSA PRIVATE KEY-----";
    resources.push(resource(ResourceType::Cluster, "with-key", with_key));
    store.save(&resources).expect("saved");
    let mode = std::fs::metadata(store.path())
        .expect("file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let contents = store.load().expect("whole").expect("present");
    assert_eq!(contents.resources, some());
    let bytes = std::fs::read(store.path()).expect("file");
    assert!(
        !bytes
            .windows(3)
            .any(|window| window == b"KEY" || window == b"key")
    );
}

#[test]
fn a_damaged_file_and_another_nodes_file_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(directory.path(), "node");
    std::fs::write(store.path(), &file()[..40]).expect("written");
    let error = store.load().expect_err("cut");
    assert!(error.to_string().contains("last-good-"), "{error}");
    std::fs::write(store.path(), encode("other", some().iter())).expect("written");
    let error = store.load().expect_err("other node").to_string();
    assert!(
        error.contains("`other`") && error.contains("`node`"),
        "{error}"
    );
}

#[test]
fn a_failed_write_keeps_the_previous_file() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(directory.path(), "node");
    store.save(&some()).expect("saved");
    // A directory in the place of the temporary file: creating it fails for every user.
    std::fs::create_dir(store.path().with_extension("tmp")).expect("directory");
    store.save(&some()[..1]).expect_err("in the way");
    assert!(store.probe().is_ok());
    let contents = store.load().expect("whole").expect("present");
    assert_eq!(contents.resources, some());
}

#[test]
fn a_link_in_the_place_of_the_file_is_not_followed() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(directory.path(), "node");
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, file()).expect("written");
    std::os::unix::fs::symlink(&elsewhere, store.path()).expect("link");
    assert!(matches!(store.load(), Err(LoadError::Read { .. })));
}

#[tokio::test]
async fn changes_are_gathered_and_the_last_one_is_written_at_the_end() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(directory.path(), "node");
    let (sender, receiver) = watch::channel::<Arc<[KeptResource]>>(Arc::from([]));
    let kept = Arc::new(Kept::default());
    let task = tokio::spawn(keep(store.clone(), receiver, Arc::clone(&kept)));
    let all = some();
    sender.send_replace(all[..1].into());
    sender.send_replace(all.clone().into());
    drop(sender);
    task.await.expect("the task ends with its sender");
    assert_eq!(kept.written.load(Ordering::Relaxed), 1);
    let contents = store.load().expect("whole").expect("present");
    assert_eq!(contents.resources, all);
}

#[tokio::test]
async fn an_ended_sender_without_changes_writes_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let store = Store::new(directory.path(), "node");
    let (sender, receiver) = watch::channel::<Arc<[KeptResource]>>(Arc::from([]));
    drop(sender);
    keep(store.clone(), receiver, Arc::default()).await;
    assert_eq!(store.load().expect("absent"), None);
}
