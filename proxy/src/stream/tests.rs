// SPDX-License-Identifier: Apache-2.0
//! Streams over loopback connections.
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

async fn pair() -> (Stream, Stream) {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (
        Stream::tcp(ours.expect("connected")),
        Stream::tcp(theirs.expect("accepted").0),
    )
}

/// Waits until a question has the answer yes; fails if it never has.
async fn until(is_met: impl Fn() -> bool) {
    let wait = async {
        while !is_met() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it comes to be");
}

#[tokio::test]
async fn an_idle_connection_is_stale_once_the_peer_has_spoken_or_closed() {
    let (ours, theirs) = pair().await;
    assert!(!ours.is_stale() && !ours.peek_closed());
    theirs.write_all(b"408").await.expect("it is open");
    until(|| ours.is_stale()).await;
    let mut buf = BytesMut::new();
    assert_eq!(ours.read_buf(&mut buf).await.expect("it is open"), 3);
    assert!(!ours.is_stale() && !ours.peek_closed());
    drop(theirs);
    until(|| ours.peek_closed()).await;
    until(|| ours.is_stale()).await;
    assert_eq!(ours.read_buf(&mut buf).await.expect("the end"), 0);
    assert!(ours.is_stale(), "an end is not forgotten");
}

#[tokio::test]
async fn an_end_that_came_with_the_last_bytes_is_found() {
    let (ours, theirs) = pair().await;
    theirs.write_all(b"last words").await.expect("it is open");
    drop(theirs);
    until(|| ours.peek_closed()).await;
    let mut buf = BytesMut::new();
    let both = async { while ours.read_buf(&mut buf).await.expect("it is readable") > 0 {} };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("the end is seen");
    assert_eq!(&buf[..], b"last words");
}

#[tokio::test]
async fn more_than_the_socket_takes_is_written_while_the_peer_reads() {
    let (ours, theirs) = pair().await;
    let (first, second) = (vec![b'a'; 3_000_000], vec![b'b'; 5_000_000]);
    let write = async {
        ours.write_vectored_all(&first, &second)
            .await
            .expect("it is open");
        ours.shutdown_write().expect("it is open");
    };
    let read = async {
        let (mut total, mut buf) = (0, BytesMut::new());
        loop {
            match theirs.read_buf(&mut buf).await.expect("it is open") {
                0 => break total,
                read => total += read,
            }
            buf.clear();
        }
    };
    let ((), total) = tokio::join!(write, read);
    assert_eq!(total, first.len() + second.len());
}

#[tokio::test]
async fn an_aborted_connection_ends_with_a_reset() {
    let (ours, theirs) = pair().await;
    ours.abort();
    drop(ours);
    let error = theirs
        .read_buf(&mut BytesMut::new())
        .await
        .expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_was_read_before_comes_first_behind_the_runtimes_traits() {
    let (ours, theirs) = pair().await;
    theirs.write_all(b" world").await.expect("it is open");
    drop(theirs);
    let mut all = String::new();
    let mut prefixed = ours.into_tokio(Bytes::from_static(b"hello"));
    prefixed.read_to_string(&mut all).await.expect("text");
    assert_eq!(all, "hello world");
}
