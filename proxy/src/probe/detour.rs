//! Redirects of plain probes, which reach the application by the exception that policy makes for their exact path. The kubelet
//! follows a redirect to the same host, and there no exception is made: nobody should get to read whatever a probed path leads to.
//! So it is sent to the probe server in its place, which performs the probe with all of its redirects and tells the status alone.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use weft_model::probes::{Action, Probes};
use weft_proxy_core::path::normalize;

/// The detours of a pod's plain probes.
#[derive(Debug, Default)]
pub(crate) struct Detours(HashMap<u16, HashMap<String, Detour>>);

/// Where one probe is sent when it would be sent on.
#[derive(Clone, Debug)]
pub(crate) struct Detour {
    admin_port: u16,
    path: Arc<str>,
}

impl Detours {
    /// Those of what is performed on `admin_port`.
    pub(crate) fn new(probes: &Probes, admin_port: u16) -> Self {
        let mut detours = Self::default();
        for probe in probes.iter().filter(|probe| !probe.occasion.is_hook()) {
            let Action::Http(get) = &probe.action else { continue };
            let path = get.path.split('?').next().unwrap_or_default();
            // What has no normal form is no exception either.
            let Some(path) = normalize(path).ok().filter(|_| !get.tls) else { continue };
            let detour = Detour { admin_port, path: probe.path().into() };
            detours.0.entry(get.port).or_default().entry(path.as_str().to_owned()).or_insert(detour);
        }
        detours
    }

    /// That of a probe by the application's port and the path in normal form.
    pub(crate) fn find(&self, port: u16, path: &str) -> Option<&Detour> {
        self.0.get(&port)?.get(path)
    }
}

impl Detour {
    /// Sends an answer of the application at `own` this way, if it would send its reader elsewhere.
    pub(crate) fn turn(&self, status: StatusCode, headers: &mut HeaderMap, own: IpAddr) {
        let Self { admin_port, path } = self;
        let at = SocketAddr::new(own, *admin_port);
        if status.is_redirection()
            && headers.contains_key(LOCATION)
            && let Ok(location) = HeaderValue::try_from(format!("http://{at}{path}"))
        {
            headers.insert(LOCATION, location);
        }
    }
}
