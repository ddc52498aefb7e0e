//! What can be set. The defaults are what `deploy/base` holds.
//!
//! What is typed comes in layers (files, `--set`), each over the one before it, maps into maps, as Helm does it. Only then it is read
//! as [`Values`]: a key that does not exist and a value that makes no sense are errors that name the key.

mod layer;
mod text;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_model::kubernetes::OWN_SECRETS;

use text::Fixed as _;

pub use layer::Layer;
pub use text::{Cidr, Directory, Image, LogFilter, Name, NameOrNone, Period, Quantity, TrustDomain};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// Trust domain of every identity. It cannot change later without a restart of all workloads.
    pub trust_domain: TrustDomain,
    /// Where the images come from.
    pub images: Images,
    /// Configures the proxies and issues their certificates.
    pub control_plane: ControlPlane,
    /// Adds the proxy to pods.
    pub injector: Injector,
    /// Sets the redirect of pods from outside of them, in place of an init container that needs NET_ADMIN.
    pub cni: Cni,
    /// How important the pods of Weft itself are to the scheduler.
    pub priority_class: PriorityClass,
    /// Whether evictions take one pod of each kind at a time.
    pub disruption_budgets: Switch,
    /// Whether the definitions of Weft's kinds are installed too.
    pub crds: Switch,
}

/// Where the images come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Images {
    /// Of the control plane and the injector.
    pub control_plane: Image,
    /// Of what pods get: the proxy, and the container that sets the redirect.
    pub proxy: Image,
    /// Of the CNI plugin.
    pub cni: Image,
    /// When the node asks the registry for the first of them.
    pub pull_policy: PullPolicy,
    /// Secrets of weft-system, and of weft-cni with the CNI plugin, that let the node into the registry.
    pub pull_secrets: Vec<Reference>,
}

/// Another object of weft-system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its name.
    pub name: Name,
}

/// When a node asks the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Whenever a pod starts.
    Always,
    /// When it does not have the image.
    IfNotPresent,
    /// Never: somebody else brings it.
    Never,
}

/// The control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// How many; the autoscaler decides where it is enabled.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: u32,
    /// What is logged.
    pub log: LogFilter,
    /// What each is promised, and gets at most.
    pub resources: Resources,
    /// How long a workload's certificate is valid.
    pub leaf_lifetime: Period,
    /// A Secret of weft-system in which somebody else keeps the issuer of certificates, such as cert-manager; none: Weft makes its own.
    pub issuer_secret: NameOrNone,
    /// Networks of the cluster: inside them proxies look unknown destinations up.
    pub networks: Vec<Cidr>,
    /// Networks of pods, services and nodes, in which no Workload may lie.
    pub reserved_networks: Vec<Cidr>,
    /// More replicas where they are busy.
    pub autoscaling: Autoscaling,
    /// Labels that its nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it puts up with, as in a pod's spec.
    pub tolerations: Vec<Map<String, Value>>,
}

/// The injector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Injector {
    /// How many.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: u32,
    /// What kind of container the proxy is: native, or before Kubernetes 1.29 ordinary.
    pub sidecar: Sidecar,
    /// What is logged.
    pub log: LogFilter,
    /// What each is promised, and gets at most.
    pub resources: Resources,
    /// Labels that its nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it puts up with, as in a pod's spec.
    pub tolerations: Vec<Map<String, Value>>,
}

/// What kind of container the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Sidecar {
    /// A native sidecar.
    Native,
    /// The first of the ordinary containers.
    Ordinary,
}

/// The CNI plugin, and the DaemonSet that keeps it on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cni {
    /// Whether it is there, and the injector leaves the redirect to it.
    pub enabled: bool,
    /// Where the container runtime of the nodes looks for CNI plugins.
    pub bin_dir: Directory,
    /// Where it looks for their configuration.
    pub conf_dir: Directory,
    /// What is logged.
    pub log: LogFilter,
    /// What each is promised, and gets at most.
    pub resources: Resources,
    /// Labels that its nodes must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that it puts up with, as in a pod's spec; all of them, as pods with a proxy may be anywhere.
    pub tolerations: Vec<Map<String, Value>>,
}

/// What a container is promised, and gets at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Promised, by resource.
    pub requests: BTreeMap<String, Quantity>,
    /// At most, by resource.
    pub limits: BTreeMap<String, Quantity>,
}

/// An autoscaler on CPU; it needs the cluster's metrics server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Autoscaling {
    /// Whether there is one.
    pub enabled: bool,
    /// Never fewer.
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: u32,
    /// Never more.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: u32,
    /// Percent of the promised CPU that it aims at.
    #[schemars(range(min = 1, max = 1000))]
    pub cpu_percent: u32,
}

/// The priority class of Weft's own pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PriorityClass {
    /// Its name.
    pub name: Name,
    /// Whether it is made; Kubernetes has its own already, system-cluster-critical among them.
    pub create: bool,
    /// Its priority, where it is made.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub value: u32,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Whether it is.
    pub enabled: bool,
}

/// A value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct ValuesError {
    /// The key, with dots: `controlPlane.replicas`. Empty for all of it.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl Values {
    /// The values of a list of layers over the defaults, and what of them is not a default.
    ///
    /// # Errors
    /// The first key that does not exist, or whose value makes no sense.
    pub fn read(layers: impl IntoIterator<Item = Layer>) -> Result<(Self, Value), ValuesError> {
        let mut set = Value::Object(Map::new());
        for Layer(layer) in layers {
            layer::merge(&mut set, layer);
        }
        let mut merged = Self::default().to_json();
        layer::merge(&mut merged, set.clone());
        layer::drop_nulls(&mut merged);
        let values: Self = serde_path_to_error::deserialize(&merged).map_err(|error| {
            let message = error.inner().to_string();
            ValuesError { key: layer::key_of(error.path(), &message), message }
        })?;
        values.check()?;
        Ok((values, set))
    }

    /// What no single key can say.
    fn check(&self) -> Result<(), ValuesError> {
        let refuse =
            |key: &str, message: String| Err(ValuesError { key: key.to_owned(), message: message.trim().to_owned() });
        let Autoscaling { min_replicas, max_replicas, .. } = self.control_plane.autoscaling;
        for (key, count) in [
            ("controlPlane.replicas", self.control_plane.replicas),
            ("controlPlane.autoscaling.minReplicas", min_replicas),
            ("controlPlane.autoscaling.maxReplicas", max_replicas),
            ("injector.replicas", self.injector.replicas),
        ] {
            if !(1..=100).contains(&count) {
                return refuse(key, format!("{count} is not between 1 and 100"));
            }
        }
        if min_replicas > max_replicas {
            let message = format!("{min_replicas} is more than maxReplicas, which is {max_replicas}");
            return refuse("controlPlane.autoscaling.minReplicas", message);
        }
        let percent = self.control_plane.autoscaling.cpu_percent;
        if !(1..=1000).contains(&percent) {
            return refuse("controlPlane.autoscaling.cpuPercent", format!("{percent} is not between 1 and 1000"));
        }
        let secret = self.control_plane.issuer_secret.as_str();
        if OWN_SECRETS.contains(&secret) {
            return refuse("controlPlane.issuerSecret", format!("{secret} is a Secret that Weft writes itself"));
        }
        let PriorityClass { name, create, value } = &self.priority_class;
        if *value > 1_000_000_000 {
            return refuse("priorityClass.value", format!("{value} is more than 1000000000, Kubernetes' own limit"));
        }
        if *create && name.as_str().starts_with("system-") {
            let message =
                format!("{name} is Kubernetes' own: choose another priorityClass.name, or leave create false");
            return refuse("priorityClass.create", message);
        }
        Ok(())
    }

    /// They as the templates see them.
    pub(crate) fn to_json(&self) -> Value {
        // It has maps by text alone.
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Default for Values {
    fn default() -> Self {
        let resources = |cpu: &str, memory: &str, most: &str| Resources {
            requests: [("cpu", cpu), ("memory", memory)].map(|(name, text)| (name.to_owned(), text.into())).into(),
            limits: [("memory".to_owned(), most.into())].into(),
        };
        Self {
            trust_domain: TrustDomain::of("cluster.local"),
            images: Images {
                control_plane: Image::of(concat!("weft/control-plane:", env!("CARGO_PKG_VERSION"))),
                proxy: Image::of(concat!("weft/proxy:", env!("CARGO_PKG_VERSION"))),
                cni: Image::of(concat!("weft/cni:", env!("CARGO_PKG_VERSION"))),
                pull_policy: PullPolicy::IfNotPresent,
                pull_secrets: Vec::new(),
            },
            control_plane: ControlPlane {
                replicas: 2,
                log: LogFilter::of("info,kube_client=error"),
                resources: resources("50m", "64Mi", "512Mi"),
                leaf_lifetime: Period::of("24h"),
                issuer_secret: NameOrNone::of(""),
                networks: Vec::new(),
                reserved_networks: Vec::new(),
                autoscaling: Autoscaling { enabled: false, min_replicas: 2, max_replicas: 5, cpu_percent: 80 },
                node_selector: BTreeMap::new(),
                tolerations: Vec::new(),
            },
            injector: Injector {
                replicas: 2,
                sidecar: Sidecar::Native,
                log: LogFilter::of("info,kube_client=error"),
                resources: resources("20m", "32Mi", "128Mi"),
                node_selector: BTreeMap::new(),
                tolerations: Vec::new(),
            },
            cni: Cni {
                enabled: false,
                bin_dir: Directory::of("/opt/cni/bin"),
                conf_dir: Directory::of("/etc/cni/net.d"),
                log: LogFilter::of("info,kube_client=error"),
                resources: resources("10m", "32Mi", "128Mi"),
                node_selector: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
                tolerations: vec![[("operator".to_owned(), Value::from("Exists"))].into_iter().collect()],
            },
            priority_class: PriorityClass {
                name: Name::of("system-cluster-critical"),
                create: false,
                value: 1_000_000,
            },
            disruption_budgets: Switch { enabled: true },
            crds: Switch { enabled: true },
        }
    }
}

#[cfg(test)]
mod tests;
