//! A DNS server: for a cluster's names and those of the world outside. Knows addresses of IPv4 only.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Finds the addresses of a name; nothing when there is no such name.
pub type Lookup = Arc<dyn Fn(&str) -> Option<Vec<Ipv4Addr>> + Send + Sync>;

/// The answer to a query; none to what is no query.
#[must_use]
pub fn answer(query: &[u8], lookup: &Lookup) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?.clone();
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE | PacketFlag::RECURSION_DESIRED);
    match lookup(&question.qname.to_string()) {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(addresses) => {
            if matches!(question.qtype, QTYPE::ANY | QTYPE::TYPE(TYPE::A)) {
                for address in addresses {
                    let data = RData::A(A { address: address.to_bits() });
                    reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 1, data));
                }
            }
        }
    }
    reply.questions.push(question);
    reply.build_bytes_vec_compressed().ok()
}

/// Answers at an address by UDP and TCP, until it fails.
pub async fn serve(address: SocketAddr, lookup: Lookup) -> std::io::Result<()> {
    let datagrams = UdpSocket::bind(address).await?;
    let streams = TcpListener::bind(address).await?;
    let for_streams = lookup.clone();
    let by_stream = async move {
        loop {
            let (stream, _) = streams.accept().await?;
            tokio::spawn(one_stream(stream, for_streams.clone()));
        }
    };
    let by_datagram = async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = datagrams.recv_from(&mut buffer).await?;
            if let Some(reply) = answer(&buffer[..length], &lookup) {
                // Who asks may be gone by now.
                let _ = datagrams.send_to(&reply, from).await;
            }
        }
    };
    tokio::select! {
        result = by_stream => result,
        result = by_datagram => result,
    }
}

async fn one_stream(mut stream: TcpStream, lookup: Lookup) -> std::io::Result<()> {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(reply) = answer(&query, &lookup) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&reply).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, Question};

    use super::*;

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize) {
        let lookup: Lookup =
            Arc::new(|name| (name == "a.test").then(|| vec![Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 2)]));
        let mut query = Packet::new_query(7);
        query.questions.push(Question::new(Name::new_unchecked(name), kind.into(), CLASS::IN.into(), false));
        let reply = answer(&query.build_bytes_vec().unwrap(), &lookup).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(reply.id(), 7);
        (reply.rcode(), reply.answers.len())
    }

    #[test]
    fn a_name_has_addresses_or_does_not_exist() {
        assert_eq!(ask("a.test", TYPE::A), (RCODE::NoError, 2));
        assert_eq!(ask("a.test", TYPE::AAAA), (RCODE::NoError, 0), "it exists, and has no such address");
        assert_eq!(ask("b.test", TYPE::A), (RCODE::NameError, 0));
    }
}
