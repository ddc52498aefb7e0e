//! What the kernel holds as our table, read back and comparable with what it should hold.

use std::collections::BTreeMap;
use std::fmt;

use super::batch::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY, POLICY_ACCEPT,
    RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, hook_number, kind, kind_name,
};
use super::expression::{self, Expression};
use super::message::{Malformed, Message, Received, family_number, split};
use crate::plan::{Chain, Family, Ruleset, TABLE};

const NEW_TABLE: u16 = kind(0);
const GET_TABLE: u16 = kind(1);
const NEW_CHAIN: u16 = kind(3);
const GET_CHAIN: u16 = kind(4);
const NEW_RULE: u16 = kind(6);
const GET_RULE: u16 = kind(7);
const FLAG_REQUEST: u16 = 0x1;
const FLAG_DUMP: u16 = 0x300;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// `NFT_TABLE_F_DORMANT`: the kernel does not call its chains.
const TABLE_DORMANT: u32 = 1;

/// A table as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    dormant: bool,
    chains: BTreeMap<String, HeldChain>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HeldChain {
    base: Option<HeldBase>,
    rules: Vec<Vec<Expression>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HeldBase {
    kind: String,
    hook: u32,
    priority: i32,
    policy: u32,
}

/// Where the kernel's table departs from the plan; the first place that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    ChainForeign(String),
    ChainMissing(String),
    Dormant,
    Hook(String),
    Rule { chain: String, number: usize },
    RuleCount { chain: String, planned: usize, held: usize },
}

impl Held {
    /// What the kernel should hold.
    pub(crate) fn expected(ruleset: &Ruleset) -> Self {
        let expect = |chain: &Chain| HeldChain {
            base: chain.base.map(|base| HeldBase {
                kind: kind_name(base.kind).to_owned(),
                hook: hook_number(base.hook),
                priority: base.priority,
                policy: POLICY_ACCEPT,
            }),
            rules: chain.rules.iter().map(|rule| expression::lower(rule, ruleset.family)).collect(),
        };
        let chains = ruleset.chains.iter().map(|chain| (chain.name.to_owned(), expect(chain))).collect();
        Self { dormant: false, chains }
    }

    /// From the datagrams of the two dumps.
    pub(super) fn parse(
        family: Family,
        dormant: bool,
        chains: &[Vec<u8>],
        rules: &[Vec<u8>],
    ) -> Result<Self, Malformed> {
        let mut held = Self { dormant, chains: BTreeMap::new() };
        for received in chains.iter().flat_map(|datagram| split(datagram)) {
            held.take_chain(family, &received?)?;
        }
        for received in rules.iter().flat_map(|datagram| split(datagram)) {
            held.take_rule(family, &received?)?;
        }
        Ok(held)
    }

    fn take_chain(&mut self, family: Family, received: &Received<'_>) -> Result<(), Malformed> {
        let attributes = received.attributes();
        let ours = received.kind() == NEW_CHAIN && received.is_of(family);
        if !ours || attributes.text(CHAIN_TABLE)? != Some(TABLE) {
            return Ok(());
        }
        let name = attributes.text(CHAIN_NAME)?.ok_or(Malformed("a chain without a name"))?;
        let base = match attributes.nested(CHAIN_HOOK)? {
            None => None,
            Some(hook) => Some(HeldBase {
                kind: attributes.text(CHAIN_TYPE)?.unwrap_or_default().to_owned(),
                hook: hook.number(HOOK_NUMBER)?.ok_or(Malformed("a hook without a number"))?,
                priority: hook.number(HOOK_PRIORITY)?.ok_or(Malformed("a hook without a priority"))?.cast_signed(),
                policy: attributes.number(CHAIN_POLICY)?.ok_or(Malformed("a hook without a policy"))?,
            }),
        };
        self.chains.insert(name.to_owned(), HeldChain { base, rules: Vec::new() });
        Ok(())
    }

    fn take_rule(&mut self, family: Family, received: &Received<'_>) -> Result<(), Malformed> {
        let attributes = received.attributes();
        let ours = received.kind() == NEW_RULE && received.is_of(family);
        if !ours || attributes.text(RULE_TABLE)? != Some(TABLE) {
            return Ok(());
        }
        let chain = attributes.text(RULE_CHAIN)?.ok_or(Malformed("a rule without a chain"))?;
        let steps = match attributes.nested(RULE_EXPRESSIONS)? {
            Some(list) => expression::parse(list)?,
            None => Vec::new(),
        };
        self.chains.entry(chain.to_owned()).or_default().rules.push(steps);
        Ok(())
    }

    /// Compares with what should be held.
    pub(crate) fn difference(&self, expected: &Self) -> Option<Difference> {
        if self.dormant != expected.dormant {
            return Some(Difference::Dormant);
        }
        if let Some(name) = self.chains.keys().find(|name| !expected.chains.contains_key(*name)) {
            return Some(Difference::ChainForeign(name.clone()));
        }
        expected.chains.iter().find_map(|(name, chain)| match self.chains.get(name) {
            None => Some(Difference::ChainMissing(name.clone())),
            Some(held) => held.difference(name, chain),
        })
    }
}

impl HeldChain {
    fn difference(&self, name: &str, expected: &Self) -> Option<Difference> {
        let chain = name.to_owned();
        if self.base != expected.base {
            return Some(Difference::Hook(chain));
        }
        if self.rules.len() != expected.rules.len() {
            return Some(Difference::RuleCount { chain, planned: expected.rules.len(), held: self.rules.len() });
        }
        let place = self.rules.iter().zip(&expected.rules).position(|(held, planned)| held != planned)?;
        Some(Difference::Rule { chain, number: place + 1 })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainForeign(name) => write!(f, "there is a chain {name} that is not planned"),
            Self::ChainMissing(name) => write!(f, "chain {name} is missing"),
            Self::Dormant => f.write_str("the table is dormant"),
            Self::Hook(name) => write!(f, "chain {name} hangs at another hook, priority or policy"),
            Self::Rule { chain, number } => write!(f, "rule {number} of chain {chain} is another one"),
            Self::RuleCount { chain, planned, held } => {
                write!(f, "chain {chain} has {held} rules instead of {planned}")
            }
        }
    }
}

pub(super) fn request_table(family: Family) -> Vec<u8> {
    let mut message = Message::new(GET_TABLE, FLAG_REQUEST, 0, family_number(family), 0);
    message.text(TABLE_NAME, TABLE);
    message.finish()
}

pub(super) fn request_chains(family: Family) -> Vec<u8> {
    Message::new(GET_CHAIN, FLAG_REQUEST | FLAG_DUMP, 0, family_number(family), 0).finish()
}

pub(super) fn request_rules(family: Family) -> Vec<u8> {
    let mut message = Message::new(GET_RULE, FLAG_REQUEST | FLAG_DUMP, 0, family_number(family), 0);
    message.text(RULE_TABLE, TABLE);
    message.finish()
}

pub(super) fn table_is_dormant(received: &Received<'_>) -> Result<bool, Malformed> {
    if received.kind() != NEW_TABLE {
        return Err(Malformed("another answer than a table"));
    }
    Ok(received.attributes().number(TABLE_FLAGS)?.unwrap_or(0) & TABLE_DORMANT != 0)
}
