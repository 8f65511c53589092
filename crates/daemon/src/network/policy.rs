//! Egress policy of a VM, in two forms: addresses for the helper, names for the resolver.

use crate::store::NetworkSpec;
use banger_proto::{
    helper::{Base, Filter, MAX_RULES, Policy, To},
    network::{Destination, Rule},
};

/// Egress rules of a VM, sorted by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    nat: bool,
    deny: Vec<Rule>,
    allow: Vec<Rule>,
}

/// Decision of the resolver about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The VM may not resolve the name.
    Refuse,
    /// Resolve the name, and open its addresses under these of the policy's `allow` rules.
    Forward(Vec<u8>),
}

impl Egress {
    /// Builds the policy. Rules of the configuration come first, then the VM's own; the order decides nothing, since
    /// `deny` wins.
    pub(crate) fn new(nat: bool, deny: impl IntoIterator<Item = Rule>, allow: impl IntoIterator<Item = Rule>) -> Self {
        Self { nat, deny: deny.into_iter().collect(), allow: allow.into_iter().collect() }
    }

    /// Policy of a VM, including the configuration's rules.
    pub(crate) fn of(spec: &NetworkSpec, defaults: &super::Settings) -> Self {
        let both = |ours: &[Rule], theirs: &[Rule]| ours.iter().chain(theirs).cloned().collect::<Vec<_>>();
        Self::new(spec.nat, both(&defaults.deny, &spec.deny), both(&defaults.allow, &spec.allow))
    }

    /// Says why the policy cannot be enforced, if it cannot.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.deny.len() > MAX_RULES || self.allow.len() > MAX_RULES {
            return Err(format!("a VM has at most {MAX_RULES} rules of a kind, the configuration's among them"));
        }
        let named_port = self.deny.iter().find(|rule| matches!(rule.to, Destination::Domain(_)) && rule.port.is_some());
        match named_port {
            Some(rule) => Err(format!("{rule}: a name is denied as a whole, without a port")),
            None => Ok(()),
        }
    }

    /// The policy for the helper. Denied names need no rule: they are not resolved.
    pub(crate) fn policy(&self) -> Policy {
        let filters =
            |rules: &[Rule], learns: bool| rules.iter().filter_map(|rule| filter(rule, learns)).collect::<Vec<_>>();
        Policy {
            base: if self.nat { Base::Internet } else { Base::Nothing },
            deny: filters(&self.deny, false),
            allow: filters(&self.allow, self.learns()),
        }
    }

    /// Whether resolved names open addresses; not needed where all of the internet is open.
    fn learns(&self) -> bool {
        !self.nat
    }

    /// The policy for the resolver.
    pub(crate) fn lookup(&self, name: &str) -> Lookup {
        let matches = |rule: &&Rule| matches!(&rule.to, Destination::Domain(domain) if domain.matches(name));
        if self.deny.iter().any(|rule| matches(&rule)) {
            return Lookup::Refuse;
        }
        if !self.learns() {
            return Lookup::Forward(Vec::new());
        }
        let in_policy = self.allow.iter().filter(|rule| filter(rule, true).is_some());
        let rules: Vec<u8> = in_policy
            .enumerate()
            .filter(|(_, rule)| matches(rule))
            .filter_map(|(index, _)| u8::try_from(index).ok())
            .collect();
        if rules.is_empty() { Lookup::Refuse } else { Lookup::Forward(rules) }
    }
}

fn filter(rule: &Rule, learns: bool) -> Option<Filter> {
    let to = match &rule.to {
        Destination::Block(block) => To::Block(*block),
        Destination::Domain(_) if learns => To::Learned,
        Destination::Domain(_) => return None,
    };
    Some(Filter { to, port: rule.port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn without_nat_only_what_is_allowed_resolves() {
        let egress =
            Egress::new(false, rules(&["bad.example.com"]), rules(&["10.0.0.0/8", "*.example.com:443", "x.org"]));
        assert_eq!(egress.lookup("a.example.com"), Lookup::Forward(vec![1]));
        assert_eq!(egress.lookup("x.org"), Lookup::Forward(vec![2]));
        for name in ["example.com", "bad.example.com", "y.org", ""] {
            assert_eq!(egress.lookup(name), Lookup::Refuse, "{name}");
        }
        let policy = egress.policy();
        assert_eq!((policy.base, policy.deny.len(), policy.allow.len()), (Base::Nothing, 0, 3));
        assert_eq!(policy.allow[1], Filter { to: To::Learned, port: Some(443) });
    }

    #[test]
    fn with_nat_names_have_nothing_to_add() {
        let egress = Egress::new(true, rules(&["bad.org", "1.1.1.1:53"]), rules(&["x.org", "192.168.1.0/24"]));
        assert_eq!(egress.lookup("anything.net"), Lookup::Forward(Vec::new()));
        assert_eq!(egress.lookup("bad.org"), Lookup::Refuse);
        let policy = egress.policy();
        assert_eq!((policy.base, policy.deny.len(), policy.allow.len()), (Base::Internet, 1, 1));
    }

    #[test]
    fn what_cannot_be_carried_out_is_said() {
        assert!(Egress::new(true, rules(&["bad.org:80"]), []).check().is_err());
        let many = vec!["10.0.0.0/8".parse().unwrap(); MAX_RULES + 1];
        assert!(Egress::new(true, [], many).check().is_err());
    }
}
