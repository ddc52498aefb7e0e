//! Clients that never stop asking, and whether anybody failed them. What they ask with, and what answers, is `tests/kubernetes/app`.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow, ensure};

use crate::{eventually, kubectl};

/// A Deployment of the test's own program, whose containers have `more` fields.
pub fn deployment(name: &str, replicas: u32, args: &str, more: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: app, image: \"weft.test/app:1\", args: [{args}]{more}}}]}}
---
"
    )
}

/// The pods of one app that ask and ask, each followed to its last words.
#[derive(Debug)]
pub struct Clients {
    namespace: String,
    app: String,
    /// What each says until it ends.
    followed: BTreeMap<String, JoinHandle<anyhow::Result<String>>>,
}

impl Clients {
    /// Those of an app of a namespace, none of which is followed yet.
    pub fn of(namespace: &str, app: &str) -> Self {
        Self { namespace: namespace.to_owned(), app: app.to_owned(), followed: BTreeMap::new() }
    }

    /// Follows a pod that came since the last call. To be called after each thing that replaces one.
    ///
    /// # Errors
    /// None came.
    pub fn follow(&mut self) -> anyhow::Result<()> {
        let new = eventually("another client", || {
            let selector = format!("app={}", self.app);
            let of = ["--namespace", &self.namespace, "get", "pods", "--selector", &selector, "--output", "name"];
            let pods = kubectl(&of)?;
            let new = pods.lines().find(|pod| !self.followed.contains_key(*pod)).map(str::to_owned);
            new.with_context(|| format!("none in {pods}"))
        })?;
        let (namespace, pod) = (self.namespace.clone(), new.clone());
        let follow = move || kubectl(&["--namespace", &namespace, "logs", &pod, "--container", "app", "--follow"]);
        self.followed.insert(new, std::thread::spawn(follow));
        Ok(())
    }

    /// How many requests those made that were followed, once all have ended.
    ///
    /// # Errors
    /// One failed, or a client did not say.
    pub fn unharmed(self) -> anyhow::Result<u32> {
        let mut asked = 0;
        for (pod, said) in self.followed {
            let said = said.join().map_err(|_panic| anyhow!("following {pod} panicked"))??;
            asked += unharmed(&said).with_context(|| format!("{}/{pod}", self.namespace))?;
        }
        Ok(asked)
    }
}

fn unharmed(said: &str) -> anyhow::Result<u32> {
    let line =
        said.lines().find(|line| line.starts_with("asked ")).with_context(|| format!("no last words: {said}"))?;
    ensure!(line.contains(", failed 0, "), "{line}");
    line.split([' ', ',']).nth(1).and_then(|count| count.parse().ok()).with_context(|| format!("no count: {line}"))
}

#[cfg(test)]
mod tests {
    use super::unharmed;

    #[test]
    fn last_words_are_read() {
        assert_eq!(unharmed("hello\nasked 17, failed 0, first: <nil>\n").unwrap(), 17);
        for harmed in ["asked 17, failed 1, first: number 3: no route", "asked many, failed 0, first", "killed"] {
            assert!(unharmed(harmed).is_err(), "{harmed}");
        }
    }
}
