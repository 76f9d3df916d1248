// SPDX-License-Identifier: Apache-2.0
use std::future::Future;
use std::rc::Rc;

use remora_rt::drain::Drain;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test as a worker runs its tasks, within a time.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it ends") });
}

/// A connection over loopback: the far end, and ours.
async fn pair() -> (TcpStream, Stream) {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
    (far.expect("connect"), Stream::tcp(near.expect("accept").0))
}

/// A relay between two peers.
struct Between {
    client: TcpStream,
    server: TcpStream,
    drain: Drain,
    relay: JoinHandle<RelayEnd>,
}

async fn between(limits: RelayLimits, first_down: &[u8], first_up: &[u8]) -> Between {
    let (client, down) = pair().await;
    let (server, up) = pair().await;
    let (drain, watch) = Drain::new();
    let (first_down, first_up) = (first_down.into(), first_up.into());
    let relay = tokio::task::spawn_local(async move {
        relay(&down, first_down, &up, first_up, limits, &watch).await
    });
    Between {
        client,
        server,
        drain,
        relay,
    }
}

async fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.expect("bytes");
    assert_eq!(bytes, expected);
}

#[test]
fn what_was_read_before_goes_first_and_half_closes_pass_both_ways() {
    run(async {
        let mut b = between(RelayLimits::default(), b"early ", b"hello ").await;
        b.client.write_all(b"question").await.expect("write");
        b.client.shutdown().await.expect("half close");
        let mut question = Vec::new();
        b.server.read_to_end(&mut question).await.expect("read");
        assert_eq!(question, b"early question");
        // The other direction goes on after the end of this one.
        b.server.write_all(b"answer").await.expect("write");
        read_exactly(&mut b.client, b"hello answer").await;
        b.server.write_all(b"!").await.expect("write");
        drop(b.server);
        let mut rest = Vec::new();
        b.client.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest, b"!");
        let end = b.relay.await.expect("relay");
        assert_eq!(
            end,
            RelayEnd {
                received: 14,
                sent: 13,
                why: Ended::Finished
            }
        );
    });
}

#[test]
fn a_slow_reader_holds_back_its_writer_and_nothing_is_lost() {
    run(async {
        let b = between(RelayLimits::default(), b"", b"").await;
        let Between {
            client,
            mut server,
            drain: _drain,
            relay,
        } = b;
        let chunk = vec![b'x'; 64 * 1024];
        // Nobody reads: only what sockets and one buffer hold can be written.
        let mut written = 0;
        while let Ok(result) =
            tokio::time::timeout(Duration::from_millis(200), client.writable()).await
        {
            result.expect("open");
            match client.try_write(&chunk) {
                Ok(n) => written += n,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(written < 64 << 20, "nothing holds the writer back");
        }
        drop(client);
        let mut read = 0;
        let mut buf = vec![0; 256 * 1024];
        loop {
            match server.read(&mut buf).await.expect("read") {
                0 => break,
                n => read += n,
            }
        }
        assert_eq!(read, written);
        drop(server);
        assert_eq!(relay.await.expect("relay").received, written as u64);
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    run(async {
        for downstream_breaks in [true, false] {
            let b = between(RelayLimits::default(), b"", b"").await;
            let Between {
                mut client,
                mut server,
                drain: _drain,
                relay,
            } = b;
            client.write_all(b"a").await.expect("write");
            read_exactly(&mut server, b"a").await;
            let (breaks, mut stays) = if downstream_breaks {
                (client, server)
            } else {
                (server, client)
            };
            SockRef::from(&breaks)
                .set_linger(Some(Duration::ZERO))
                .expect("linger");
            drop(breaks);
            let error = stays.read(&mut [0; 1]).await.expect_err("reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let why = if downstream_breaks {
                Ended::DownstreamReset
            } else {
                Ended::UpstreamReset
            };
            assert_eq!(relay.await.expect("relay").why, why);
        }
    });
}

#[test]
fn silence_ends_it_and_traffic_either_way_moves_the_end() {
    run(async {
        let idle = Duration::from_millis(150);
        let limits = RelayLimits {
            idle: Some(idle),
            max_duration: None,
        };
        let start = clock::now();
        let mut b = between(limits, b"", b"").await;
        for _ in 0..8 {
            b.server.write_all(b"tick").await.expect("write");
            read_exactly(&mut b.client, b"tick").await;
            tokio::time::sleep(idle / 3).await;
        }
        let busy = clock::now() - start;
        assert!(busy > 2 * idle && !b.relay.is_finished());
        assert_eq!(b.relay.await.expect("relay").why, Ended::Idle);
        assert!(clock::now() - start >= busy + idle / 2);
        assert_eq!(b.client.read(&mut [0; 1]).await.expect("end"), 0);
    });
}

#[test]
fn age_and_a_forced_drain_end_it_whatever_moves() {
    run(async {
        let limits = RelayLimits {
            idle: None,
            max_duration: Some(Duration::from_millis(100)),
        };
        let b = between(limits, b"", b"").await;
        assert_eq!(b.relay.await.expect("relay").why, Ended::TooOld);
        let b = between(RelayLimits::default(), b"", b"").await;
        b.drain.graceful(PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!b.relay.is_finished(), "a graceful drain waits");
        b.drain.force();
        assert_eq!(b.relay.await.expect("relay").why, Ended::Drained);
    });
}

#[test]
fn an_idle_direction_holds_no_buffer_and_a_thread_keeps_few() {
    run(async {
        let mut all = Vec::new();
        for _ in 0..3 * SPARE {
            let mut b = between(RelayLimits::default(), b"", b"").await;
            b.client.write_all(b"a").await.expect("write");
            read_exactly(&mut b.server, b"a").await;
            all.push(b);
        }
        tokio::task::yield_now().await;
        let kept = SPARES.with_borrow(Vec::len);
        assert!((1..=SPARE).contains(&kept), "{kept}");
    });
}

#[test]
fn bulk_in_both_directions_arrives_whole() {
    run(async {
        let b = between(RelayLimits::default(), b"", b"").await;
        let Between {
            client,
            server,
            drain: _drain,
            relay,
        } = b;
        let bytes: Rc<Vec<u8>> = Rc::new(
            (0..4_000_000_u32)
                .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
                .collect(),
        );
        let exchange = |stream: TcpStream| {
            let bytes = Rc::clone(&bytes);
            async move {
                let (mut read, mut write) = stream.into_split();
                let sending = async {
                    write.write_all(&bytes).await.expect("write");
                    write.shutdown().await.expect("half close");
                };
                let mut received = Vec::new();
                let receiving = read.read_to_end(&mut received);
                let ((), result) = tokio::join!(sending, receiving);
                result.expect("read");
                assert!(received == *bytes, "what arrived is not what was sent");
            }
        };
        tokio::join!(exchange(client), exchange(server));
        let end = relay.await.expect("relay");
        let all = bytes.len() as u64;
        assert_eq!(
            end,
            RelayEnd {
                received: all,
                sent: all,
                why: Ended::Finished
            }
        );
    });
}
