//! Challenges of a registry: `WWW-Authenticate`, after RFC 9110, section 11.6.1.
//!
//! One field may hold several challenges and several fields may come, in any order; which comma ends a challenge and
//! which one only a parameter is decided here. Whatever is malformed counts as not said.

use std::{
    iter::{self, Peekable},
    str::Chars,
};

/// Upper bound of the challenges that are looked at, in all fields together.
const MAX_CHALLENGES: usize = 16;
/// Upper bound of the parameters of one challenge; known ones have four.
const MAX_PARAMETERS: usize = 16;

/// Challenge that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// Token of a token service.
    Bearer(Bearer),
}

/// Parameters of a token service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
}

/// Scheme with its parameters.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

/// Value of one field, read from left to right.
struct Field<'a>(Peekable<Chars<'a>>);

impl Challenge {
    /// Returns the best of the challenges in these fields: with a token, not every request carries the password.
    pub(super) fn best(fields: &[String]) -> Option<Self> {
        let of_field = |field| {
            let mut field = Field::new(field);
            iter::from_fn(move || field.offer())
        };
        let offers = fields.iter().map(String::as_str).flat_map(of_field).take(MAX_CHALLENGES);
        let mut basic = None;
        for challenge in offers.filter_map(Self::answerable) {
            match challenge {
                Self::Bearer(_) => return Some(challenge),
                Self::Basic => basic = Some(challenge),
            }
        }
        basic
    }

    fn answerable(mut offer: Offer) -> Option<Self> {
        if offer.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !offer.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut value = |name: &str| {
            let at = offer.parameters.iter().position(|(key, _)| key.eq_ignore_ascii_case(name))?;
            Some(offer.parameters.remove(at).1)
        };
        Some(Self::Bearer(Bearer { realm: value("realm")?, service: value("service") }))
    }
}

impl<'a> Field<'a> {
    fn new(text: &'a str) -> Self {
        Self(text.chars().peekable())
    }

    fn skip(&mut self, is: impl Fn(char) -> bool) {
        while self.0.next_if(|c| is(*c)).is_some() {}
    }

    fn take(&mut self, is: impl Fn(char) -> bool) -> String {
        iter::from_fn(|| self.0.next_if(|c| is(*c))).collect()
    }

    /// Skips to the next comma that is not in quotes.
    fn skip_element(&mut self) {
        while let Some(character) = self.0.next_if(|c| *c != ',') {
            if character == '"' {
                let _ = self.quoted();
            }
        }
    }

    /// Reads the rest of a quoted string; `None` if it has no end.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.0.next()? {
                '"' => return Some(text),
                '\\' => text.push(self.0.next()?),
                other => text.push(other),
            }
        }
    }

    /// Skips a `token68`, which a scheme such as Negotiate has instead of parameters, if the next element is one.
    fn skip_token68(&mut self) -> bool {
        let mut ahead = Field(self.0.clone());
        let begins = ahead.0.peek().is_some_and(|c| *c != ',');
        ahead.skip(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        ahead.skip(|c| c == '=');
        ahead.skip(is_space);
        let is = begins && ahead.0.peek().is_none_or(|c| *c == ',');
        if is {
            *self = ahead;
        }
        is
    }

    /// Reads a parameter. `Ok(None)` if what comes next is not one but the next scheme; nothing is read then.
    fn parameter(&mut self) -> Result<Option<(String, String)>, Malformed> {
        let mut ahead = Field(self.0.clone());
        ahead.skip(is_between);
        let name = ahead.take(is_token);
        ahead.skip(is_space);
        if name.is_empty() || ahead.0.next() != Some('=') {
            return Ok(None);
        }
        ahead.skip(is_space);
        let value = if ahead.0.next_if_eq(&'"').is_some() {
            ahead.quoted().ok_or(Malformed)?
        } else {
            // An address is not a token and has to be quoted, which some do not do.
            ahead.take(|c| !is_between(c))
        };
        *self = ahead;
        Ok(Some((name, value)))
    }

    /// Reads the next challenge.
    fn offer(&mut self) -> Option<Offer> {
        loop {
            self.skip(is_between);
            self.0.peek()?;
            let scheme = self.take(is_token);
            // A scheme ends with a space, a comma or the field.
            if scheme.is_empty() || self.0.peek().is_some_and(|c| !is_between(*c)) {
                self.skip_element();
                continue;
            }
            let mut parameters = Vec::new();
            self.skip(is_space);
            if self.skip_token68() {
                return Some(Offer { scheme, parameters });
            }
            loop {
                match self.parameter() {
                    Ok(Some(parameter)) if parameters.len() < MAX_PARAMETERS => parameters.push(parameter),
                    Ok(Some(_)) => {}
                    Ok(None) => return Some(Offer { scheme, parameters }),
                    Err(Malformed) => return None,
                }
            }
        }
    }
}

/// Quoted string without an end.
#[derive(Debug)]
struct Malformed;

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Whether it may stand between two elements of a list, some of which may be empty.
fn is_between(c: char) -> bool {
    is_space(c) || c == ','
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    fn best(fields: &[&str]) -> Option<Challenge> {
        Challenge::best(&fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_challenge() {
        for (text, challenge) in [
            (r#"Bearer realm="https://a/t",service="s",scope="x:y""#, Some(bearer("https://a/t", Some("s")))),
            (r#"bearer Service=s, realm="https://a/\"t""#, Some(bearer("https://a/\"t", Some("s")))),
            ("BEARER\trealm = \"https://a\" ,\tservice\t=\ts", Some(bearer("https://a", Some("s")))),
            // Not as it has to be, and yet clear.
            ("Bearer realm=https://a/t?x=1,service=s", Some(bearer("https://a/t?x=1", Some("s")))),
            (r#"Bearer realm="https://a" service="s""#, Some(bearer("https://a", Some("s")))),
            (r#", ,Bearer ,realm="https://a",,service="s","#, Some(bearer("https://a", Some("s")))),
            (r#"Bearer realm="https://a",realm="https://b""#, Some(bearer("https://a", None))),
            (r#"Bearer realm="https://a/?x=\\,y=\"""#, Some(bearer(r#"https://a/?x=\,y=""#, None))),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("Basic realm=a registry", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Bearer service=s", None),
            ("Bearer realm", None),
            ("Bearer", None),
            // Where a string has no end, nobody knows what was meant to be in it.
            (r#"Bearer realm="https://a"#, None),
            (r#"Bearer realm="https://a\""#, None),
            ("Bearerrealm=\"https://a\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(best(&[text]), challenge, "{text}");
        }
    }

    #[test]
    fn several_challenges_in_one_field_and_in_several() {
        let (basic, token) = (r#"Basic realm="a, b", charset="UTF-8""#, r#"Bearer realm="https://a/t",service="s""#);
        let wanted = Some(bearer("https://a/t", Some("s")));
        for others in
            ["Negotiate", "Negotiate YWJj==", "NTLM abc+/-._~", "Digest realm=\"Bearer realm=x, y\", qop=auth"]
        {
            for field in [
                format!("{basic}, {token}"),
                format!("{token}, {basic}"),
                format!("{others}, {basic}, {token}"),
                format!("{basic},{others},{token}"),
                format!("{token},{basic},{others}"),
                format!("Basic, {others},{token}"),
            ] {
                assert_eq!(best(&[&field]), wanted, "{field}");
            }
            assert_eq!(best(&[others, basic, token]), wanted, "{others}");
            assert_eq!(best(&[token, others, basic]), wanted, "{others}");
            assert_eq!(best(&[&format!("{others}, {basic}")]), Some(Challenge::Basic), "{others}");
            assert_eq!(best(&[&format!("{basic}, {others}")]), Some(Challenge::Basic), "{others}");
            assert_eq!(best(&[others]), None);
        }
        // A service in a challenge is that challenge's alone, and what is in quotes is no challenge.
        assert_eq!(best(&[r#"Bearer realm="a", Digest service="s""#]), Some(bearer("a", None)));
        assert_eq!(best(&[r#"Basic realm="x, Bearer realm=y""#]), Some(Challenge::Basic));
        // What cannot be read hides nothing that can.
        assert_eq!(best(&[r#"@"x, Basic", Bearer realm="a""#]), Some(bearer("a", None)));
        assert_eq!(best(&[r#"Bearer service="s", Basic"#]), Some(Challenge::Basic));
        assert_eq!(best(&[r#"Bearer realm="a"#, "Basic"]), Some(Challenge::Basic));
        assert_eq!(best(&["Bearer realm=a", "Bearer realm=b"]), Some(bearer("a", None)));
    }

    #[test]
    fn there_is_an_end_to_what_is_read() {
        let many = |n: usize| format!("{}Bearer realm=a", "Negotiate, ".repeat(n));
        assert_eq!(best(&[&many(MAX_CHALLENGES - 1)]), Some(bearer("a", None)));
        assert_eq!(best(&[&many(MAX_CHALLENGES)]), None);
        let many = |n: usize| format!("Bearer {}realm=a, Basic", "x=y, ".repeat(n));
        assert_eq!(best(&[&many(MAX_PARAMETERS - 1)]), Some(bearer("a", None)));
        assert_eq!(best(&[&many(MAX_PARAMETERS)]), Some(Challenge::Basic));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_field_ends(text: String, odd in "[ ,=\"\\\\a@]{0,40}") {
            let _ = best(&[&text, &format!("Bearer {text}"), &odd, &format!("Bearer {odd}")]);
        }

        #[test]
        fn whatever_is_quoted_is_read_as_it_was_meant(realm: String) {
            let quoted: String = realm.chars().flat_map(|c| ['\\', c]).collect();
            let field = format!("Basic, Bearer realm=\"{quoted}\", Negotiate abc=");
            proptest::prop_assert_eq!(best(&[&field]), Some(bearer(&realm, None)));
        }
    }
}
