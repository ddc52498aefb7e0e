//! Facts to messages, and messages to facts, believed after a look: who speaks has our own identity, but maybe another version.

use std::sync::Arc;

use weft_index::{Kind, ObjectKey};
use weft_model::WorkloadName;
use weft_proto::convert::{Invalid, bounds};
use weft_proto::proxy::v1 as proxy;
use weft_proto::replica::v1::{
    DepartureFact, Fact as WireFact, FollowResponse, ProxyFact as WireProxy, Refusal, ResourceFact as WireResource,
    fact::About,
};

use crate::hub::{BundleId, Fact, ProxyFact, REFUSALS_MAX, RefusalReport, ResourceFact};

/// Facts of one message: with every reason as long as may be it stays below what is read of one.
pub(crate) const FACTS_MAX: usize = 128;

/// A response, understood.
#[derive(Debug)]
pub(crate) struct Said {
    /// Who speaks.
    pub(crate) replica: String,
    /// The trust bundle that it gives out.
    pub(crate) bundle: Option<BundleId>,
    /// What is new. Of what this version does not know nothing is said.
    pub(crate) facts: Vec<Fact>,
    /// Whether everything has been told once.
    pub(crate) complete: bool,
}

impl TryFrom<FollowResponse> for Said {
    type Error = Invalid;

    fn try_from(response: FollowResponse) -> Result<Self, Invalid> {
        let FollowResponse { replica, bundle, facts, complete } = response;
        let facts = facts.into_iter().filter_map(|fact| fact_of(fact).transpose()).collect::<Result<_, _>>()?;
        Ok(Self { replica, bundle: BundleId::from_wire(bundle), facts, complete })
    }
}

/// `None`: it is about something that this version does not know.
fn fact_of(fact: WireFact) -> Result<Option<Fact>, Invalid> {
    let fact = match fact.about {
        Some(About::Departure(DepartureFact { workload, forgotten })) => {
            Fact::Departure(workload_of(workload)?, !forgotten)
        }
        Some(About::Proxy(WireProxy { workload, forgotten, connected, bundle })) => {
            let fact = ProxyFact { connected, bundle: BundleId::from_wire(bundle) };
            Fact::Proxy(workload_of(workload)?, (!forgotten).then_some(fact))
        }
        Some(About::Resource(resource)) => return Ok(resource_of(resource)),
        None => return Ok(None),
    };
    Ok(Some(fact))
}

fn workload_of(workload: Option<proxy::WorkloadName>) -> Result<WorkloadName, Invalid> {
    workload.unwrap_or_default().try_into()
}

/// Of a kind that we know. Its name is looked up among ours and never written anywhere.
fn resource_of(resource: WireResource) -> Option<Fact> {
    let WireResource { kind, namespace, name, generation, running, concerned, refused } = resource;
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    let key = ObjectKey { kind, namespace: Arc::from(namespace), name: Arc::from(name) };
    let refused = refused.into_iter().take(REFUSALS_MAX);
    let fact = ResourceFact {
        generation,
        running: size(running.min(concerned)),
        concerned: size(concerned),
        refused: refused.map(|Refusal { workload, reason }| RefusalReport { workload, reason }).collect(),
    };
    Some(Fact::Resource(key, (concerned > 0).then_some(fact)))
}

/// One message.
pub(crate) fn response(replica: &str, bundle: Option<BundleId>, facts: &[Fact], complete: bool) -> FollowResponse {
    let facts = facts.iter().map(|fact| WireFact { about: Some(about(fact)) }).collect();
    FollowResponse { replica: replica.to_owned(), bundle: BundleId::to_wire(bundle), facts, complete }
}

fn about(fact: &Fact) -> About {
    match fact {
        Fact::Departure(workload, spoken_of) => {
            About::Departure(DepartureFact { workload: Some(workload.into()), forgotten: !spoken_of })
        }
        Fact::Proxy(workload, fact) => About::Proxy(WireProxy {
            workload: Some(workload.into()),
            forgotten: fact.is_none(),
            connected: fact.is_some_and(|fact| fact.connected),
            bundle: BundleId::to_wire(fact.and_then(|fact| fact.bundle)),
        }),
        Fact::Resource(key, fact) => About::Resource(resource(key, fact.as_ref())),
    }
}

fn resource(key: &ObjectKey, fact: Option<&ResourceFact>) -> WireResource {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let refusal = |by: &RefusalReport| {
        let mut reason = by.reason.clone();
        reason.truncate(reason.floor_char_boundary(bounds::REASON_BYTES_MAX));
        Refusal { workload: by.workload.clone(), reason }
    };
    WireResource {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        generation: fact.map_or(0, |fact| fact.generation),
        running: fact.map_or(0, |fact| count(fact.running)),
        concerned: fact.map_or(0, |fact| count(fact.concerned)),
        refused: fact.map(|fact| fact.refused.iter().map(refusal).collect()).unwrap_or_default(),
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> WorkloadName {
        WorkloadName::new("shop", "web-1")
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: Kind::HttpRoute, namespace: "shop".into(), name: "canary".into() }
    }

    #[test]
    fn what_is_said_is_understood() {
        let refused = vec![RefusalReport { workload: "shop/web-2".to_owned(), reason: "too many rules".to_owned() }];
        let bundle = BundleId::from_wire(7);
        let facts = [
            Fact::Departure(name(), true),
            Fact::Departure(name(), false),
            Fact::Proxy(name(), Some(ProxyFact { connected: true, bundle })),
            Fact::Proxy(name(), Some(ProxyFact { connected: false, bundle: None })),
            Fact::Proxy(name(), None),
            Fact::Resource(key(), Some(ResourceFact { generation: 3, running: 1, concerned: 2, refused })),
            Fact::Resource(key(), None),
        ];
        let said = Said::try_from(response("replica-1", bundle, &facts, true)).unwrap();
        assert_eq!((said.replica.as_str(), said.bundle, said.complete), ("replica-1", bundle, true));
        assert_eq!(said.facts, facts);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_cannot_be_ends_the_link() {
        let mut strange = response("replica-1", None, &[Fact::Resource(key(), None)], true);
        strange.facts.push(WireFact { about: None });
        let Some(About::Resource(resource)) = &mut strange.facts[0].about else { panic!("{strange:?}") };
        resource.kind = "TeapotPolicy".to_owned();
        assert_eq!(Said::try_from(strange).unwrap().facts, []);

        let mut broken = response("replica-1", None, &[Fact::Departure(name(), true)], true);
        let Some(About::Departure(departure)) = &mut broken.facts[0].about else { panic!("{broken:?}") };
        departure.workload = None;
        let error = Said::try_from(broken).unwrap_err().to_string();
        assert!(error.contains("namespace"), "{error}");
    }

    #[test]
    fn more_run_it_than_it_concerns_nowhere() {
        let mut odd = response("replica-1", None, &[Fact::Resource(key(), None)], true);
        let Some(About::Resource(resource)) = &mut odd.facts[0].about else { panic!("{odd:?}") };
        (resource.running, resource.concerned) = (9, 2);
        let Fact::Resource(_, Some(fact)) = Said::try_from(odd).unwrap().facts.remove(0) else { panic!("no fact") };
        assert_eq!((fact.running, fact.concerned), (2, 2));
    }
}
