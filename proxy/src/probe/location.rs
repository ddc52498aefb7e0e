//! Where a redirect leads (RFC 3986 §5.2), as far as the kubelet would follow it: to the same host, whatever the port.

use std::net::IpAddr;

use http::uri::{PathAndQuery, Uri};
use weft_model::bounds::URL_BYTES_MAX;

/// What is asked for next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Whether over TLS.
    pub(super) tls: bool,
    pub(super) port: u16,
    /// Path and query.
    pub(super) target: String,
}

/// What becomes of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// To another host.
    Elsewhere,
    /// To ourselves.
    Here {
        /// What is there.
        page: Page,
        /// Whether the redirect named no host.
        is_relative: bool,
    },
    /// To nothing that can be read.
    Nowhere,
}

/// Reads a `Location` that came for `page` of the host `own`.
pub(super) fn follow(page: &Page, own: IpAddr, location: &str) -> Followed {
    let location = location.trim().split('#').next().unwrap_or_default();
    if location.len() > URL_BYTES_MAX {
        return Followed::Nowhere;
    }
    let head = location.split(['/', '?']).next().unwrap_or_default();
    if head.ends_with(':') {
        return absolute(location, own);
    }
    if location.starts_with("//") {
        let scheme = if page.tls { "https:" } else { "http:" };
        return absolute(&format!("{scheme}{location}"), own);
    }
    let (path, query) = page.target.split_once('?').map_or((page.target.as_str(), None), |(path, q)| (path, Some(q)));
    let target = match location.chars().next() {
        None => with_query(path, query),
        Some('?') => format!("{path}{location}"),
        Some(_) => {
            let (to, query) = location.split_once('?').map_or((location, None), |(to, query)| (to, Some(query)));
            let base = path.rsplit_once('/').map_or("", |(base, _)| base);
            let path = if to.starts_with('/') { to.to_owned() } else { format!("{base}/{to}") };
            with_query(&without_dots(&path), query)
        }
    };
    here(Page { target, ..page.clone() }, true)
}

fn absolute(location: &str, own: IpAddr) -> Followed {
    let Ok(uri) = location.parse::<Uri>() else { return Followed::Nowhere };
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) | None => return Followed::Nowhere,
    };
    let Some(host) = uri.host() else { return Followed::Nowhere };
    if host.trim_start_matches('[').trim_end_matches(']').parse() != Ok(own) {
        return Followed::Elsewhere;
    }
    let named = uri.authority().and_then(|authority| authority.as_str().rsplit('@').next()?.strip_prefix(host));
    let port = match named {
        Some("" | ":") => Some(if tls { 443 } else { 80 }),
        Some(_) | None => uri.port_u16(),
    };
    let Some(port) = port else { return Followed::Nowhere };
    here(Page { tls, port, target: with_query(&without_dots(uri.path()), uri.query()) }, false)
}

fn here(page: Page, is_relative: bool) -> Followed {
    if page.target.parse::<PathAndQuery>().is_ok() && page.port != 0 {
        Followed::Here { page, is_relative }
    } else {
        Followed::Nowhere
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Takes out `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_the_rfc_says() {
        let page = Page { tls: true, port: 8443, target: "/a/b?c=d".to_owned() };
        let here = |tls, port, target: &str, is_relative| Followed::Here {
            page: Page { tls, port, target: target.to_owned() },
            is_relative,
        };
        let relative = |target| here(true, 8443, target, true);
        for (location, want) in [
            ("/ok", relative("/ok")),
            ("/ok?x=y#z", relative("/ok?x=y")),
            ("ok/", relative("/a/ok/")),
            ("./ok", relative("/a/ok")),
            ("../ok?d=../e", relative("/ok?d=../e")),
            ("../../../ok", relative("/ok")),
            ("..", relative("/")),
            ("/x/./y/../", relative("/x/")),
            ("?only=query", relative("/a/b?only=query")),
            ("", relative("/a/b?c=d")),
            (" /spaces ", relative("/spaces")),
            ("http://10.0.0.7:8080/x", here(false, 8080, "/x", false)),
            ("http://me@10.0.0.7:/", here(false, 80, "/", false)),
            ("http://10.0.0.7", here(false, 80, "/", false)),
            ("https://10.0.0.7/x?y", here(true, 443, "/x?y", false)),
            ("//10.0.0.7:1/x", here(true, 1, "/x", false)),
            ("https://10.0.0.8:8443/x", Followed::Elsewhere),
            ("https://cart.example/x", Followed::Elsewhere),
            ("//cart.example", Followed::Elsewhere),
            ("https://127.0.0.1:8443/x", Followed::Elsewhere),
            ("ftp://10.0.0.7/x", Followed::Nowhere),
            ("https://", Followed::Nowhere),
            ("https://10.0.0.7:0/", Followed::Nowhere),
            ("https://10.0.0.7:99999/", Followed::Nowhere),
            ("/a b", Followed::Nowhere),
        ] {
            assert_eq!(follow(&page, "10.0.0.7".parse().unwrap(), location), want, "{location:?}");
        }
        let long = format!("/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(follow(&page, "10.0.0.7".parse().unwrap(), &long), Followed::Nowhere);
        let own = "fd00::7".parse().unwrap();
        assert_eq!(follow(&page, own, "http://[fd00::7]:1/x"), here(false, 1, "/x", false));
    }
}
