//! Many datagrams a system call: the generator's side of a fast run, and the echo that all servers are compared with.
//!
//! ```text
//! generator  one socket on every address, each query from another source     --sendmmsg-->  server
//!            replies to all of them come to the same socket                  <--recvmmsg--
//! echo       what came goes back from the slot it lies in, with an answer    recvmmsg -> sendmmsg
//! ```
//!
//! Unsafe code of the developer commands stands here and nowhere else: batched system calls have no safe interface that
//! takes a source for each datagram.

use std::io::{self, ErrorKind};
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use socket2::{Domain, Socket, Type};

/// Datagrams a call, as many as the server takes (`net::limit::BATCH`).
pub const BATCH: usize = 64;

/// What a socket may hold, the server's own measure (`net::limit::UDP_QUEUE_OCTETS`).
pub const QUEUE_OCTETS: usize = 4 << 20;

const OCTETS_MAX: usize = 2048;

/// A header and an `in_pktinfo`.
const CONTROL_LEN: usize = 32;

/// What the kernel works on. It holds pointers into itself, so it is only ever touched through one pointer.
#[repr(C)]
struct Raw {
    headers: [libc::mmsghdr; BATCH],
    vectors: [libc::iovec; BATCH],
    peers: [libc::sockaddr_in; BATCH],
    controls: [[u64; CONTROL_LEN / 8]; BATCH],
    octets: [[u8; OCTETS_MAX]; BATCH],
}

/// Slots for datagrams, live until it is dropped.
struct Slots(NonNull<Raw>);

impl Slots {
    /// With room for names and data; control messages only where a source is chosen.
    fn new() -> Self {
        // SAFETY: all fields are integers and nullable pointers, for which zeros are valid.
        let raw: Box<Raw> = unsafe { Box::new(mem::zeroed()) };
        let slots = Self(NonNull::from(Box::leak(raw)));
        let raw = slots.0.as_ptr();
        for index in 0..BATCH {
            // SAFETY: `raw` is live and ours, and `index` is below BATCH.
            unsafe {
                (*raw).vectors[index].iov_base = (&raw mut (*raw).octets[index]).cast();
                (*raw).vectors[index].iov_len = OCTETS_MAX;
                let header = &raw mut (*raw).headers[index].msg_hdr;
                (*header).msg_iov = &raw mut (*raw).vectors[index];
                (*header).msg_iovlen = 1;
                (*header).msg_name = (&raw mut (*raw).peers[index]).cast();
                (*header).msg_namelen = NAME_LEN;
            }
        }
        slots
    }

    /// All send to this address, from a source that [`Self::set_source`] names.
    fn aim(&mut self, server: SocketAddrV4) {
        let raw = self.0.as_ptr();
        for index in 0..BATCH {
            // SAFETY: as in `new`; a control is aligned as its header must be, and has room for it and its data.
            unsafe {
                let peer = &raw mut (*raw).peers[index];
                (*peer).sin_family = libc::AF_INET as _;
                (*peer).sin_port = server.port().to_be();
                (*peer).sin_addr.s_addr = u32::from_ne_bytes(server.ip().octets());
                let control: *mut libc::cmsghdr = (&raw mut (*raw).controls[index]).cast();
                (*control).cmsg_len = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as _;
                (*control).cmsg_level = libc::IPPROTO_IP;
                (*control).cmsg_type = libc::IP_PKTINFO;
                let header = &raw mut (*raw).headers[index].msg_hdr;
                (*header).msg_control = control.cast();
                (*header).msg_controllen =
                    libc::CMSG_SPACE(size_of::<libc::in_pktinfo>() as u32) as _;
            }
        }
    }

    fn set_source(&mut self, index: usize, source: Ipv4Addr) {
        assert!(index < BATCH);
        let raw = self.0.as_ptr();
        // SAFETY: as in `aim`, which has put the header there.
        unsafe {
            let control: *mut libc::cmsghdr = (&raw mut (*raw).controls[index]).cast();
            let data: *mut libc::in_pktinfo = libc::CMSG_DATA(control).cast();
            (*data).ipi_ifindex = 0;
            (*data).ipi_spec_dst.s_addr = u32::from_ne_bytes(source.octets());
        }
    }

    /// The octets of a slot.
    fn octets(&mut self, index: usize) -> &mut [u8; OCTETS_MAX] {
        assert!(index < BATCH);
        // SAFETY: the slot is live, and nobody else refers to it while `self` is borrowed.
        unsafe { &mut (*self.0.as_ptr()).octets[index] }
    }

    /// How many octets came into a slot.
    fn received_len(&self, index: usize) -> usize {
        assert!(index < BATCH);
        // SAFETY: as in `octets`.
        unsafe { (*self.0.as_ptr()).headers[index].msg_len as usize }.min(OCTETS_MAX)
    }

    /// How many octets of a slot are sent, or may be received.
    fn set_len(&mut self, index: usize, length: usize) {
        assert!(index < BATCH && length <= OCTETS_MAX);
        // SAFETY: as in `octets`.
        unsafe { (*self.0.as_ptr()).vectors[index].iov_len = length }
    }

    /// Makes a slot that has been used ready to receive again.
    fn reset(&mut self, index: usize) {
        self.set_len(index, OCTETS_MAX);
        // SAFETY: as in `octets`.
        unsafe { (*self.0.as_ptr()).headers[index].msg_hdr.msg_namelen = NAME_LEN }
    }

    fn receive(&mut self, socket: &UdpSocket, flags: libc::c_int) -> io::Result<usize> {
        // SAFETY: there are BATCH headers, whose names, vectors and controls are parts of the same live value.
        let count = unsafe {
            let headers = (&raw mut (*self.0.as_ptr()).headers).cast();
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers,
                BATCH as _,
                flags,
                ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Sends the slots of this range; how many the kernel took.
    fn send(&mut self, socket: &UdpSocket, first: usize, count: usize) -> io::Result<usize> {
        assert!(first + count <= BATCH);
        // SAFETY: as in `receive`; the range lies within.
        let sent = unsafe {
            let headers: *mut libc::mmsghdr = (&raw mut (*self.0.as_ptr()).headers).cast();
            libc::sendmmsg(socket.as_raw_fd(), headers.add(first), count as _, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: it came from a Box, and nobody else has it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

const NAME_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as _;

/// One socket that asks from many addresses.
pub struct Asker {
    socket: UdpSocket,
    outgoing: Slots,
    incoming: Slots,
    sources: Vec<Ipv4Addr>,
    next_source: usize,
    queued: usize,
}

impl Asker {
    pub fn new(server: SocketAddrV4, sources: Vec<Ipv4Addr>) -> io::Result<Self> {
        let socket = socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        let mut outgoing = Slots::new();
        outgoing.aim(server);
        Ok(Self {
            socket,
            outgoing,
            incoming: Slots::new(),
            sources,
            next_source: 0,
            queued: 0,
        })
    }

    /// Puts a query into the batch, from the next address. A batch has room for [`BATCH`].
    pub fn queue(&mut self, message: &[u8]) {
        let slot = self.queued;
        self.outgoing.octets(slot)[..message.len()].copy_from_slice(message);
        self.outgoing.set_len(slot, message.len());
        self.outgoing
            .set_source(slot, self.sources[self.next_source]);
        self.next_source = (self.next_source + 1) % self.sources.len();
        self.queued += 1;
    }

    /// Sends the batch; how many queries the kernel did not take.
    pub fn flush(&mut self) -> usize {
        let (count, mut done, mut failed) = (mem::take(&mut self.queued), 0, 0);
        while done < count {
            match self.outgoing.send(&self.socket, done, count - done) {
                Ok(sent) => done += sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => (done, failed) = (done + 1, failed + 1),
            }
        }
        failed
    }

    /// Hands over the replies that are there, at most a batch, without waiting; how many there were.
    pub fn receive(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        // What is unreachable concerns a query that will count as lost.
        let count = self
            .incoming
            .receive(&self.socket, libc::MSG_DONTWAIT)
            .unwrap_or(0);
        for slot in 0..count {
            let length = self.incoming.received_len(slot);
            each(&self.incoming.octets(slot)[..length]);
            self.incoming.reset(slot);
        }
        count
    }

    /// The port that it asks from.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |local| local.port())
    }
}

/// Answers every query on this port of loopback; what `answer` leaves in the octets goes back, if it is not empty.
/// Blocks until the socket fails.
pub fn echo(port: u16, answer: fn(&mut [u8], usize) -> usize) -> io::Result<()> {
    let socket = socket(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let mut slots = Slots::new();
    loop {
        let count = match slots.receive(&socket, libc::MSG_WAITFORONE) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for slot in 0..count {
            let length = slots.received_len(slot);
            let length = answer(slots.octets(slot), length);
            slots.set_len(slot, length);
        }
        let mut done = 0;
        while done < count {
            // A datagram that cannot be sent is left out.
            done += slots.send(&socket, done, count - done).unwrap_or(1);
        }
        (0..count).for_each(|slot| slots.reset(slot));
    }
}

fn socket(local: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // Capped by net.core.rmem_max without a complaint.
    socket.set_recv_buffer_size(QUEUE_OCTETS)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}
