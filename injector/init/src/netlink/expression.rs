//! The kernel's own language: a rule is a list of small steps over one register. [`lower`] writes a rule as the `nft`
//! program would, so that it lists as we render it; [`Expression::write`] and [`parse`] are its two directions on the wire.

use ipnet::IpNet;

use super::message::{Attributes, Malformed, Message};
use crate::plan::{Family, Match, Rule, Side, Verdict};

/// One step. Values lie in the first register (a verdict in register 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Ands the register with the mask, then xors it.
    Bitwise { mask: Vec<u8>, xor: Vec<u8> },
    /// Goes on only if the register stands so to the value.
    Compare { operator: u32, value: Vec<u8> },
    /// Loads a fact that conntrack knows.
    Conntrack { key: u32 },
    /// Asks the routing tables.
    Fib { result: u32, flags: u32 },
    /// Something that we never write.
    Foreign(String),
    /// Loads a constant.
    Immediate { value: Vec<u8> },
    /// Loads a fact about the packet that is not in its bytes.
    Meta { key: u32 },
    /// Loads bytes of the packet.
    Payload { base: u32, offset: u32, length: u32 },
    /// To the port in the register.
    Redirect { flags: u32 },
    /// Ends the rule.
    Verdict { code: i32, chain: Option<String> },
}

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const LIST_ELEMENT: u16 = 1;

const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;

const CODE_DROP: i32 = 0;
const CODE_ACCEPT: i32 = 1;
const CODE_JUMP: i32 = -3;

const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const COMPARE_EQUAL: u32 = 0;
const COMPARE_NOT_EQUAL: u32 = 1;
const COMPARE_LESS_OR_EQUAL: u32 = 3;
const COMPARE_GREATER_OR_EQUAL: u32 = 5;

const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;

const CONNTRACK_STATE: u32 = 0;
/// The bit of a packet that fits no connection.
const STATE_INVALID: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
/// `RTN_LOCAL`: an address of this namespace.
const ADDRESS_LOCAL: u32 = 2;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a port is given.
const REDIRECT_TO_PORT: u32 = 2;

const PROTOCOL_TCP: u8 = 6;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// The index of `lo`, the same in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The steps of a rule in a table of this family.
pub(crate) fn lower(rule: &Rule, family: Family) -> Vec<Expression> {
    let mut steps = Vec::new();
    for condition in &rule.matches {
        lower_match(condition, family, &mut steps);
    }
    match rule.verdict {
        Verdict::Accept => steps.push(Expression::Verdict { code: CODE_ACCEPT, chain: None }),
        Verdict::Drop => steps.push(Expression::Verdict { code: CODE_DROP, chain: None }),
        Verdict::Jump(chain) => {
            steps.push(Expression::Verdict { code: CODE_JUMP, chain: Some(chain.to_owned()) });
        }
        Verdict::Redirect(port) => steps.extend([
            Expression::Immediate { value: port.get().to_be_bytes().to_vec() },
            Expression::Redirect { flags: REDIRECT_TO_PORT },
        ]),
    }
    steps
}

fn lower_match(condition: &Match, family: Family, steps: &mut Vec<Expression>) {
    match condition {
        Match::Invalid => steps.extend([
            Expression::Conntrack { key: CONNTRACK_STATE },
            Expression::Bitwise { mask: STATE_INVALID.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            compare(COMPARE_NOT_EQUAL, [0; 4]),
        ]),
        Match::InputLoopback => steps.extend(meta(META_IIF, LOOPBACK_INDEX.to_ne_bytes())),
        Match::Network(side, network) => lower_network(*side, network, family, steps),
        Match::NotLocal => steps.extend([
            Expression::Fib { result: FIB_ADDRESS_TYPE, flags: FIB_OF_DESTINATION },
            compare(COMPARE_NOT_EQUAL, ADDRESS_LOCAL.to_ne_bytes()),
        ]),
        Match::OutputLoopback => steps.extend(meta(META_OIF, LOOPBACK_INDEX.to_ne_bytes())),
        Match::Port(side, ports) => {
            steps.extend(meta(META_L4PROTO, [PROTOCOL_TCP]));
            let offset = match side {
                Side::Destination => 2,
                Side::Source => 0,
            };
            steps.push(Expression::Payload { base: BASE_TRANSPORT, offset, length: 2 });
            if ports.first() == ports.last() {
                steps.push(compare(COMPARE_EQUAL, ports.first().to_be_bytes()));
            } else {
                steps.push(compare(COMPARE_GREATER_OR_EQUAL, ports.first().to_be_bytes()));
                steps.push(compare(COMPARE_LESS_OR_EQUAL, ports.last().to_be_bytes()));
            }
        }
        Match::SocketMark(mark) => steps.extend(meta(META_MARK, mark.get().to_ne_bytes())),
        Match::SocketUser(uid) => steps.extend(meta(META_SKUID, uid.to_ne_bytes())),
        Match::Tcp => steps.extend(meta(META_L4PROTO, [PROTOCOL_TCP])),
    }
}

/// As `nft` does it: a prefix of whole bytes loads only those, another loads all and masks.
fn lower_network(side: Side, network: &IpNet, family: Family, steps: &mut Vec<Expression>) {
    let (protocol, address, mask, source_at) = match network {
        IpNet::V4(net) => (NFPROTO_IPV4, net.network().octets().to_vec(), net.netmask().octets().to_vec(), 12),
        IpNet::V6(net) => (NFPROTO_IPV6, net.network().octets().to_vec(), net.netmask().octets().to_vec(), 8),
    };
    let prefix = usize::from(network.prefix_len());
    // A table of family ip sees nothing else. "Any address" has no other match than the protocol.
    if family == Family::Inet || prefix == 0 {
        steps.extend(meta(META_NFPROTO, [protocol]));
    }
    if prefix == 0 {
        return;
    }
    let whole_bytes = prefix.is_multiple_of(8);
    let length = if whole_bytes { prefix / 8 } else { address.len() };
    let width = u32::from(network.max_prefix_len()) / 8;
    let offset = match side {
        Side::Destination => source_at + width,
        Side::Source => source_at,
    };
    let loaded = if whole_bytes { u32::from(network.prefix_len()) / 8 } else { width };
    steps.push(Expression::Payload { base: BASE_NETWORK, offset, length: loaded });
    if !whole_bytes {
        steps.push(Expression::Bitwise { xor: vec![0; mask.len()], mask });
    }
    steps.push(compare(COMPARE_EQUAL, address.into_iter().take(length).collect::<Vec<_>>()));
}

fn meta(key: u32, value: impl Into<Vec<u8>>) -> [Expression; 2] {
    [Expression::Meta { key }, compare(COMPARE_EQUAL, value)]
}

fn compare(operator: u32, value: impl Into<Vec<u8>>) -> Expression {
    Expression::Compare { operator, value: value.into() }
}

/// Writes the steps as the elements of a list.
pub(super) fn write(steps: &[Expression], message: &mut Message) {
    for step in steps {
        message.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, step.name());
            element.nest(EXPRESSION_DATA, |data| step.write(data));
        });
    }
}

/// Reads the elements of such a list.
pub(super) fn parse(list: Attributes<'_>) -> Result<Vec<Expression>, Malformed> {
    let mut steps = Vec::new();
    for element in list {
        let (_, value) = element?;
        let element = Attributes::inside(value);
        let name = element.text(EXPRESSION_NAME)?.ok_or(Malformed("an expression without a name"))?;
        let data = element.nested(EXPRESSION_DATA)?.unwrap_or(Attributes::inside(&[]));
        steps.push(parse_one(name, data)?);
    }
    Ok(steps)
}

impl Expression {
    fn name(&self) -> &str {
        match self {
            Self::Bitwise { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Conntrack { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::Foreign(name) => name,
            Self::Immediate { .. } | Self::Verdict { .. } => "immediate",
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Redirect { .. } => "redir",
        }
    }

    fn write(&self, data: &mut Message) {
        match self {
            Self::Bitwise { mask, xor } => {
                data.number(1, REGISTER);
                data.number(2, REGISTER);
                data.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                data.nest(4, |value| value.attribute(DATA_VALUE, mask));
                data.nest(5, |value| value.attribute(DATA_VALUE, xor));
            }
            Self::Compare { operator, value } => {
                data.number(1, REGISTER);
                data.number(2, *operator);
                data.nest(3, |nest| nest.attribute(DATA_VALUE, value));
            }
            Self::Conntrack { key } => {
                data.number(1, REGISTER);
                data.number(2, *key);
            }
            Self::Fib { result, flags } => {
                data.number(1, REGISTER);
                data.number(2, *result);
                data.number(3, *flags);
            }
            Self::Foreign(_) => {}
            Self::Immediate { value } => {
                data.number(1, REGISTER);
                data.nest(2, |nest| nest.attribute(DATA_VALUE, value));
            }
            Self::Meta { key } => {
                data.number(1, REGISTER);
                data.number(2, *key);
            }
            Self::Payload { base, offset, length } => {
                data.number(1, REGISTER);
                data.number(2, *base);
                data.number(3, *offset);
                data.number(4, *length);
            }
            Self::Redirect { flags } => {
                data.number(1, REGISTER);
                data.number(3, *flags);
            }
            Self::Verdict { code, chain } => write_verdict(*code, chain.as_deref(), data),
        }
    }
}

fn write_verdict(code: i32, chain: Option<&str>, data: &mut Message) {
    data.number(1, REGISTER_VERDICT);
    data.nest(2, |nest| {
        nest.nest(DATA_VERDICT, |verdict| {
            verdict.attribute(VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                verdict.text(VERDICT_CHAIN, chain);
            }
        });
    });
}

/// The inverse of [`Expression::write`]. What differs from how we write (another register, a second port) is foreign.
fn parse_one(name: &str, data: Attributes<'_>) -> Result<Expression, Malformed> {
    let number = |kind| data.number(kind)?.ok_or(Malformed("an expression lacks a number"));
    let value = |kind| {
        let nest = data.nested(kind)?.ok_or(Malformed("an expression lacks its data"))?;
        Ok(nest.value(DATA_VALUE)?.ok_or(Malformed("an expression lacks its value"))?.to_vec())
    };
    let foreign = || Ok(Expression::Foreign(name.to_owned()));
    match name {
        "bitwise" => {
            let plain = number(1)? == REGISTER && number(2)? == REGISTER && data.number(6)?.unwrap_or(0) == 0;
            if plain { Ok(Expression::Bitwise { mask: value(4)?, xor: value(5)? }) } else { foreign() }
        }
        "cmp" if number(1)? == REGISTER => Ok(Expression::Compare { operator: number(2)?, value: value(3)? }),
        "ct" if data.number(1)? == Some(REGISTER) && data.value(3)?.is_none() => {
            Ok(Expression::Conntrack { key: number(2)? })
        }
        "fib" if number(1)? == REGISTER => Ok(Expression::Fib { result: number(2)?, flags: number(3)? }),
        "immediate" if number(1)? == REGISTER => Ok(Expression::Immediate { value: value(2)? }),
        "immediate" if number(1)? == REGISTER_VERDICT => parse_verdict(data),
        "meta" if data.number(1)? == Some(REGISTER) => Ok(Expression::Meta { key: number(2)? }),
        "payload" if data.number(1)? == Some(REGISTER) => {
            Ok(Expression::Payload { base: number(2)?, offset: number(3)?, length: number(4)? })
        }
        // The kernel reports the highest port, too: the same register.
        "redir" if data.number(1)? == Some(REGISTER) && data.number(2)?.is_none_or(|max| max == REGISTER) => {
            Ok(Expression::Redirect { flags: number(3)? })
        }
        _ => foreign(),
    }
}

fn parse_verdict(data: Attributes<'_>) -> Result<Expression, Malformed> {
    let nest = data.nested(2)?.ok_or(Malformed("a verdict lacks its data"))?;
    let verdict = nest.nested(DATA_VERDICT)?.ok_or(Malformed("a verdict lacks its value"))?;
    let code = verdict.number(VERDICT_CODE)?.ok_or(Malformed("a verdict lacks its code"))?;
    let chain = verdict.text(VERDICT_CHAIN)?.map(str::to_owned);
    Ok(Expression::Verdict { code: code.cast_signed(), chain })
}
