//! The little of addresses that downloading needs: encoding, redirects, origins, and what of one may be shown.

use std::fmt::Write;

use ureq::http::Uri;

/// The longest list of redirects that is followed.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// `text` as one part of a path, or as several where `/` is kept.
pub(crate) fn encode(text: &str, keep_slash: bool) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || (keep_slash && b == b'/');
    percent(text, is_plain)
}

fn percent(text: &str, is_kept: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match is_kept(byte) {
            true => out.push(char::from(byte)),
            false => write!(out, "%{byte:02X}").expect("a string takes whatever it is given"),
        }
    }
    out
}

/// An address of the web, or `None`. What a careless server leaves unencoded is encoded.
pub(crate) fn parse(url: &str) -> Option<Uri> {
    let url = url.trim().split('#').next().unwrap_or_default();
    let uri: Uri = percent(url, |b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)).parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    (is_web && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// Where a redirect from `base` to `location` leads.
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let scheme = base.scheme_str()?;
    let root = format!("{scheme}://{}", base.authority()?);
    let has_scheme = location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':'));
    if has_scheme {
        parse(location)
    } else if location.starts_with("//") {
        parse(&format!("{scheme}:{location}"))
    } else if location.starts_with('/') {
        parse(&format!("{root}{location}"))
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        parse(&format!("{root}{folder}/{location}"))
    }
}

/// Who answers at an address: scheme, host and port. The token is for one of these.
pub(crate) fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme.into(), uri.host().unwrap_or_default().to_lowercase(), port)
}

/// An address as it may be shown: without a password, and without the query, which may be a signature.
pub(crate) fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü?#%.bin", true), "a%20b/%C3%BC%3F%23%25.bin");
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let base = parse("https://hub.co:8443/gpt2/resolve/main/a.json?x=1").unwrap();
        for (location, expected) in [
            ("https://cdn.net/x?sig=1", "https://cdn.net/x?sig=1"),
            ("//cdn.net/x", "https://cdn.net/x"),
            ("/api/y", "https://hub.co:8443/api/y"),
            ("b.json", "https://hub.co:8443/gpt2/resolve/main/b.json"),
            ("b.json?to=http://x", "https://hub.co:8443/gpt2/resolve/main/b.json?to=http://x"),
            ("https://cdn.net/x?f=\"a b\"", "https://cdn.net/x?f=%22a%20b%22"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), expected);
        }
        for location in ["ftp://x/y", "file:///etc/passwd", "https://", "javascript:x"] {
            assert_eq!(join(&base, location), None, "{location}");
        }
    }

    proptest! {
        #[test]
        fn a_redirect_leads_to_the_web_or_nowhere(location in ".{0,40}") {
            let base = parse("https://hub.co/a/b?c").unwrap();
            if let Some(next) = join(&base, &location) {
                prop_assert!(matches!(next.scheme_str(), Some("http" | "https")));
                prop_assert!(!next.host().unwrap().is_empty());
                prop_assert!(!shown(&next).contains('?'));
            }
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |url| origin(&parse(url).unwrap());
        assert_eq!(of("https://Hub.co/a"), of("https://hub.co:443/b"));
        assert_ne!(of("https://hub.co"), of("http://hub.co"));
        assert_ne!(of("http://hub.co"), of("http://hub.co:8080"));
        assert_ne!(of("http://hub.co"), of("http://hub.co.evil.net"));
        assert_ne!(of("http://hub.co"), of("http://hub.co@evil.net"));
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        let url = parse("https://ann:password@hub.co/a/b?signature=secret").unwrap();
        assert_eq!(shown(&url), "https://hub.co/a/b");
    }
}
