//! A transaction as bytes, with the name of each operation, so that a refusal can say what was refused.

use std::io;

use super::expression;
use super::message::{Message, family_number};
use crate::error::InitError;
use crate::plan::{Base, Chain, Family, Hook, Kind, Match, Rule, Ruleset, TABLE, Verdict};

/// What every operation needs.
pub(super) const NF_TABLES: &str = "nf_tables (CONFIG_NF_TABLES)";

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = kind(0);
const DELETE_TABLE: u16 = kind(2);
const NEW_CHAIN: u16 = kind(3);
const NEW_RULE: u16 = kind(6);

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
const FLAG_CREATE: u16 = 0x400;
const FLAG_APPEND: u16 = 0x800;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
/// `NF_ACCEPT`.
pub(super) const POLICY_ACCEPT: u32 = 1;

/// The type of a message of `nf_tables`.
pub(super) const fn kind(operation: u16) -> u16 {
    SUBSYSTEM << 8 | operation
}

/// All messages of one transaction.
pub(super) struct Batch {
    purpose: &'static str,
    bytes: Vec<u8>,
    /// What the message with this index does; sequence numbers are indexes.
    operations: Vec<Operation>,
}

struct Operation {
    /// Completes "the kernel refused to …".
    does: String,
    /// Module and option of the kernel.
    needs: &'static str,
}

impl Batch {
    /// Our table anew. A table that is there already goes; adding it first makes the deletion valid if there is none.
    pub(super) fn replace(ruleset: &Ruleset) -> Self {
        let mut batch = Self::begin("set the redirect rules");
        batch.add_table(ruleset.family);
        batch.delete_table(ruleset.family, 0);
        batch.add_table(ruleset.family);
        for chain in &ruleset.chains {
            batch.add_chain(ruleset.family, chain);
        }
        let rules = ruleset.chains.iter().flat_map(|chain| chain.rules.iter().map(|rule| (chain.name, rule)));
        let count = ruleset.chains.iter().map(|chain| chain.rules.len()).sum::<usize>();
        for (index, (chain, rule)) in rules.enumerate() {
            batch.add_rule(ruleset.family, chain, rule, index + 1 == count);
        }
        batch.end()
    }

    /// Our table away; added first for the same reason.
    pub(super) fn remove(family: Family) -> Self {
        let mut batch = Self::begin("remove the redirect rules");
        batch.add_table(family);
        batch.delete_table(family, FLAG_ACKNOWLEDGE);
        batch.end()
    }

    fn begin(purpose: &'static str) -> Self {
        let mut batch = Self { purpose, bytes: Vec::new(), operations: Vec::new() };
        let open = Message::new(BATCH_BEGIN, FLAG_REQUEST, 0, 0, SUBSYSTEM);
        batch.push(open, purpose.to_owned(), NF_TABLES);
        batch
    }

    fn end(mut self) -> Self {
        let close = Message::new(BATCH_END, FLAG_REQUEST, self.next_sequence(), 0, SUBSYSTEM);
        self.bytes.extend(close.finish());
        self
    }

    fn add_table(&mut self, family: Family) {
        let mut message = self.message(NEW_TABLE, FLAG_CREATE, family);
        message.text(TABLE_NAME, TABLE);
        message.number(TABLE_FLAGS, 0);
        let needs = match family {
            Family::Inet => "nf_tables with tables of family inet (CONFIG_NF_TABLES_INET)",
            Family::Ipv4 => "nf_tables with tables of family ip (CONFIG_NF_TABLES_IPV4)",
        };
        self.push(message, format!("add table {family} {TABLE}"), needs);
    }

    fn delete_table(&mut self, family: Family, flags: u16) {
        let mut message = self.message(DELETE_TABLE, flags, family);
        message.text(TABLE_NAME, TABLE);
        self.push(message, format!("delete table {family} {TABLE}"), NF_TABLES);
    }

    fn add_chain(&mut self, family: Family, chain: &Chain) {
        let mut message = self.message(NEW_CHAIN, FLAG_CREATE, family);
        message.text(CHAIN_TABLE, TABLE);
        message.text(CHAIN_NAME, chain.name);
        if let Some(base) = chain.base {
            message.text(CHAIN_TYPE, kind_name(base.kind));
            message.nest(CHAIN_HOOK, |hook| {
                hook.number(HOOK_NUMBER, hook_number(base.hook));
                hook.attribute(HOOK_PRIORITY, &base.priority.to_be_bytes());
            });
            message.number(CHAIN_POLICY, POLICY_ACCEPT);
        }
        let needs = match chain.base {
            Some(Base { kind: Kind::Nat, .. }) => "nft_chain_nat (CONFIG_NFT_NAT)",
            Some(Base { kind: Kind::Filter, .. }) | None => NF_TABLES,
        };
        self.push(message, format!("add chain {family} {TABLE} {}", chain.name), needs);
    }

    fn add_rule(&mut self, family: Family, chain: &str, rule: &Rule, last: bool) {
        let acknowledge = if last { FLAG_ACKNOWLEDGE } else { 0 };
        let mut message = self.message(NEW_RULE, FLAG_CREATE | FLAG_APPEND | acknowledge, family);
        message.text(RULE_TABLE, TABLE);
        message.text(RULE_CHAIN, chain);
        let steps = expression::lower(rule, family);
        message.nest(RULE_EXPRESSIONS, |list| expression::write(&steps, list));
        self.push(message, format!("add rule {family} {TABLE} {chain} {rule}"), needs_of(rule));
    }

    fn message(&self, kind: u16, flags: u16, family: Family) -> Message {
        Message::new(kind, FLAG_REQUEST | flags, self.next_sequence(), family_number(family), 0)
    }

    fn push(&mut self, message: Message, does: String, needs: &'static str) {
        self.bytes.extend(message.finish());
        self.operations.push(Operation { does, needs });
    }

    fn next_sequence(&self) -> u32 {
        u32::try_from(self.operations.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn purpose(&self) -> &'static str {
        self.purpose
    }

    /// Of the message that the kernel acknowledges.
    pub(super) fn last_sequence(&self) -> u32 {
        self.next_sequence().saturating_sub(1)
    }

    /// The error for a refused message.
    pub(super) fn refused(&self, sequence: u32, source: io::Error) -> InitError {
        let operation = usize::try_from(sequence).ok().and_then(|index| self.operations.get(index));
        let (does, needs) = operation.map_or((self.purpose, NF_TABLES), |found| (&found.does, found.needs));
        InitError::refused(does.to_owned(), needs, source)
    }
}

pub(super) const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Filter => "filter",
        Kind::Nat => "nat",
    }
}

/// `NF_INET_PRE_ROUTING` and `NF_INET_LOCAL_OUT`.
pub(super) const fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Output => 3,
        Hook::Prerouting => 0,
    }
}

/// The part of the kernel that may be missing when only this rule is refused.
fn needs_of(rule: &Rule) -> &'static str {
    if let Verdict::Redirect(_) = rule.verdict {
        return "nft_redir (CONFIG_NFT_REDIR)";
    }
    if rule.matches.contains(&Match::NotLocal) {
        return "nft_fib_inet, nft_fib_ipv4 and nft_fib_ipv6 (CONFIG_NFT_FIB_INET)";
    }
    if rule.matches.contains(&Match::Invalid) {
        return "nft_ct and nf_conntrack (CONFIG_NFT_CT)";
    }
    NF_TABLES
}
