//! What the figures must show, and whether they do.

use crate::contestant::Contestant;
use crate::figure::{Figure, Figures};
use crate::fleet::{Measured, Size};

/// What Weft's median is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// A number.
    Number,
    /// The same figure of another.
    Other(Contestant),
    /// The same figure of whichever of several is better.
    Best(&'static [Contestant]),
    /// What another adds to the figure without any proxy.
    Added(Contestant),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    figure: Figure,
    against: Against,
    limit: f64,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What is claimed.
    pub(crate) claim: String,
    /// What it came to, where all it needs was measured.
    pub(crate) value: Option<f64>,
    /// What it may be.
    pub(crate) limit: f64,
}

impl Verdict {
    /// For people.
    pub(crate) fn word(&self) -> &'static str {
        match self.value {
            None => "not measured",
            Some(value) if value <= self.limit => "met",
            Some(_) => "MISSED",
        }
    }
}

const FORWARDERS: &[Contestant] = &[Contestant::ForwarderHttp1, Contestant::ForwarderShared];

/// All of them. The limits are the project's own goals.
pub(crate) const CLAIMS: &[Claim] = &[
    Claim { figure: Figure::Http1Cpu, against: Against::Other(Contestant::Envoy), limit: 0.27 },
    Claim { figure: Figure::Http1Cpu, against: Against::Best(FORWARDERS), limit: 1.2 },
    Claim { figure: Figure::Http2Cpu, against: Against::Other(Contestant::Envoy), limit: 0.40 },
    Claim { figure: Figure::Http2Cpu, against: Against::Other(Contestant::ForwarderHttp2), limit: 1.25 },
    Claim { figure: Figure::GrpcCpu, against: Against::Other(Contestant::Envoy), limit: 0.25 },
    Claim { figure: Figure::GrpcCpu, against: Against::Other(Contestant::ForwarderHttp2), limit: 1.25 },
    Claim { figure: Figure::CallsOutbound, against: Against::Number, limit: 4.3 },
    Claim { figure: Figure::CallsInbound, against: Against::Number, limit: 4.3 },
    Claim { figure: Figure::LatencyP50, against: Against::Added(Contestant::Envoy), limit: 0.5 },
    Claim { figure: Figure::LatencyP99, against: Against::Added(Contestant::Envoy), limit: 0.5 },
    Claim { figure: Figure::BulkCpu, against: Against::Other(Contestant::Envoy), limit: 0.7 },
    Claim { figure: Figure::ConnectionCpu, against: Against::Other(Contestant::Envoy), limit: 0.2 },
    Claim { figure: Figure::RssRest, against: Against::Number, limit: 12.0 },
    Claim { figure: Figure::RssIdleHttp, against: Against::Number, limit: 24.0 },
    Claim { figure: Figure::RssIdleTcp, against: Against::Number, limit: 24.0 },
    Claim { figure: Figure::LeakRss, against: Against::Number, limit: 1.05 },
    Claim { figure: Figure::LeakFiles, against: Against::Number, limit: 1.05 },
    Claim { figure: Figure::OverloadP99, against: Against::Number, limit: 3.0 },
    Claim { figure: Figure::OverloadOthers, against: Against::Number, limit: 0.0 },
    Claim { figure: Figure::Size, against: Against::Number, limit: 15.0 },
    Claim { figure: Figure::Start, against: Against::Number, limit: 20.0 },
];

impl Claim {
    /// How it stands by these figures.
    pub(crate) fn judge(self, figures: &Figures) -> Verdict {
        let Self { figure, against, limit } = self;
        let of = |contestant| figures.median(figure, contestant);
        let weft = of(Contestant::Weft);
        let ratio = |over: Option<f64>| Some(weft? / over.filter(|over| *over > 0.0)?);
        let (title, value) = match against {
            Against::Number if figure.unit().is_empty() => (figure.title().to_owned(), weft),
            Against::Number => (format!("{} ({})", figure.title(), figure.unit()), weft),
            Against::Other(other) => (format!("{}, × {}", figure.title(), other.title()), ratio(of(other))),
            Against::Best(others) => {
                let best = others.iter().filter_map(|other| of(*other)).min_by(f64::total_cmp);
                (format!("{}, × the better bare forwarder", figure.title()), ratio(best))
            }
            Against::Added(other) => {
                let floor = of(Contestant::Direct);
                let added = |value: Option<f64>| Some(value? - floor?);
                let value = added(of(other)).filter(|over| *over > 0.0).and_then(|over| Some(added(weft)? / over));
                (format!("{} added, × {}", figure.title(), other.title()), value)
            }
        };
        Verdict { claim: title, value, limit }
    }
}

/// The mesh that claims about the control plane are about, and their limits: ms and MiB.
const FLEET: Size = Size { proxies: 1000, services: 1000 };
const LAST_ACK_MS_MAX: f64 = 250.0;
const FLEET_RSS_MAX: f64 = 150.0;

/// How the claims about the control plane stand.
pub(crate) fn judge_fleet(figures: &Figures) -> [Verdict; 2] {
    let measured = figures.fleets().iter().find(|measured| measured.size == FLEET);
    let Size { proxies, services } = FLEET;
    let claim = |what: &str| format!("control plane, {proxies} proxies × {services} services, {what}");
    let last = measured.and_then(|measured| measured.change.p99());
    let rss = measured.map(|Measured { rss: [_, _, everything], .. }| *everything);
    [
        Verdict { claim: claim("last acknowledgement, p99 (ms)"), value: last, limit: LAST_ACK_MS_MAX },
        Verdict { claim: claim("RSS (MiB)"), value: rss, limit: FLEET_RSS_MAX },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(against: Against, figures: &[(Contestant, f64)]) -> Option<f64> {
        let mut all = Figures::default();
        for (contestant, value) in figures {
            all.add(Figure::LatencyP50, *contestant, *value);
        }
        Claim { figure: Figure::LatencyP50, against, limit: 1.0 }.judge(&all).value
    }

    #[test]
    fn a_claim_is_held_against_what_it_names() {
        use Contestant::{Direct, Envoy, ForwarderHttp1, ForwarderShared, Weft};
        let measured = [(Weft, 30.0), (Envoy, 120.0), (ForwarderHttp1, 20.0), (ForwarderShared, 15.0), (Direct, 10.0)];
        assert_eq!(judged(Against::Number, &measured), Some(30.0));
        assert_eq!(judged(Against::Other(Envoy), &measured), Some(0.25));
        assert_eq!(judged(Against::Best(FORWARDERS), &measured), Some(2.0));
        assert_eq!(judged(Against::Added(Envoy), &measured), Some(20.0 / 110.0));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        use Contestant::{Envoy, Weft};
        assert_eq!(judged(Against::Other(Envoy), &[(Weft, 1.0)]), None);
        assert_eq!(judged(Against::Added(Envoy), &[(Weft, 1.0), (Envoy, 2.0)]), None);
        let verdict = CLAIMS[0].judge(&Figures::default());
        assert_eq!((verdict.word(), verdict.value), ("not measured", None));
    }
}
