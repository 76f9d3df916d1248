// SPDX-License-Identifier: Apache-2.0
//! The store on scripts of snapshots, in paused time.

use remora_model::{Endpoint, ModelParts};

use super::*;
use crate::source::manifest::read_text;
use crate::source::{SourceSnapshot, assemble::assemble};

/// A snapshot of services, each with one pod of the given address.
fn snapshot(services: &[(&str, &str)]) -> SourceSnapshot {
    let mut text = String::new();
    for (name, ip) in services {
        text.push_str(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
             spec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, \
             spec: {{}}, status: {{podIP: {ip}}}}}\n---\n"
        ));
    }
    let domain = "cluster.local".into();
    let content = read_text(&"f".into(), &text, &domain);
    assert_eq!(content.findings, []);
    let objects: Vec<_> = content.objects.into_iter().map(Arc::new).collect();
    assemble(&objects, &domain)
}

struct Running {
    input: mpsc::Sender<SourceSnapshot>,
    reader: StoreReader,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let (input, store, reader) = Store::new();
        let running = Self {
            input,
            reader,
            task: tokio::spawn(store.run()),
        };
        assert_eq!(running.reader.model().revision(), 0);
        running.send(snapshot(&[("a", "10.0.0.1")])).await;
        assert_eq!(
            running.reader.model().revision(),
            1,
            "the first snapshot waits for nothing"
        );
        running
    }

    async fn send(&self, snapshot: SourceSnapshot) {
        self.input.send(snapshot).await.expect("the store runs");
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }

    async fn after(&self, millis: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        tokio::task::yield_now().await;
        self.reader.model().revision()
    }
}

#[tokio::test(start_paused = true)]
async fn endpoint_changes_are_published_at_once_and_others_after_a_pause() {
    let running = Running::start().await;
    running.send(snapshot(&[("a", "10.0.0.2")])).await;
    assert_eq!(
        running.reader.model().revision(),
        2,
        "an endpoint waits for nothing"
    );
    running
        .send(snapshot(&[("a", "10.0.0.2"), ("b", "10.0.0.3")]))
        .await;
    assert_eq!(running.reader.model().revision(), 2, "a service waits");
    assert_eq!(running.after(11).await, 3);
}

#[tokio::test(start_paused = true)]
async fn news_without_end_is_published_within_a_bound() {
    let running = Running::start().await;
    let mut published = None;
    for step in 0_u64..30 {
        let name = format!("b{step}");
        running
            .send(snapshot(&[("a", "10.0.0.1"), (&name, "10.0.0.2")]))
            .await;
        if running.after(5).await > 1 {
            published = Some((step + 1) * 5);
            break;
        }
    }
    assert!(
        published.is_some_and(|millis| (95..=110).contains(&millis)),
        "{published:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_if_nothing_changed() {
    let running = Running::start().await;
    let mut same = snapshot(&[("a", "10.0.0.1")]);
    running.send(same.clone()).await;
    assert_eq!(running.after(200).await, 1);
    same.findings.push(Finding {
        file: "f".into(),
        line: 1,
        severity: Severity::Warning,
        object: String::new(),
        field: String::new(),
        reason: "look".into(),
    });
    running.send(same).await;
    assert_eq!(running.after(200).await, 1);
    let status = running.reader.status();
    assert_eq!(
        (status.revision, status.services, status.endpoints),
        (1, 1, 1)
    );
    assert_eq!(
        (status.errors, status.warnings),
        (0, 1),
        "findings are current all the same"
    );
    running
        .send(snapshot(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]))
        .await;
    running.send(snapshot(&[("a", "10.0.0.1")])).await;
    assert_eq!(
        running.after(200).await,
        1,
        "a change that was taken back was never one"
    );
}

#[tokio::test(start_paused = true)]
async fn readers_wait_for_what_they_have_not_seen() {
    let mut running = Running::start().await;
    let first = running.reader.ready().await.expect("the store runs");
    assert_eq!(first.revision(), 1);
    let mut reader = running.reader.clone();
    let next = tokio::spawn(async move { reader.changed().await.map(|model| model.revision()) });
    running.send(snapshot(&[("a", "10.0.0.9")])).await;
    assert_eq!(next.await.expect("no panic"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_published_when_the_source_ends() {
    let running = Running::start().await;
    running.send(snapshot(&[("b", "10.0.0.1")])).await;
    drop(running.input);
    running.task.await.expect("no panic");
    assert_eq!(running.reader.model().revision(), 2);
    let parts: &ModelParts = &running.reader.model().parts().clone();
    let endpoints: Vec<&Endpoint> = parts.endpoints.values().flat_map(|l| l.iter()).collect();
    assert_eq!(endpoints.len(), 1);
}
