//! Many datagrams a system call, and each reply from the address that was asked.
//!
//! This is the only file with unsafe code, and it holds nothing but what needs it: the layouts that `recvmmsg` and
//! `sendmmsg` work on, the socket options that no library names, and the limit of open files. Where the kernel is not Linux a portable twin
//! with the same face takes one datagram at a time, and leaves the source of a reply to the routing table.
//!
//! ```text
//! slot     peer        control           octets
//! 0        10.0.0.7    asked 10.96.0.10  | query ........ |     recvmmsg fills as many slots as are waiting
//! 1        10.0.0.9    asked 10.96.0.10  | query ........ |
//! replies  | reply to 0 | reply to 1 |                          sendmmsg takes names and sources from the slots
//! ```

#![allow(
    unsafe_code,
    reason = "batched system calls and their control messages have no safe interface"
)]

#[cfg(target_os = "linux")]
pub use linux::{
    Batch, Inbox, ReturnPath, prepare, queue_fill, raise_file_limit, send_late, send_some,
};
#[cfg(not(target_os = "linux"))]
pub use portable::{
    Batch, Inbox, ReturnPath, prepare, queue_fill, raise_file_limit, send_late, send_some,
};

/// The twin for other kernels; here for its tests only.
#[cfg(any(not(target_os = "linux"), test))]
pub mod portable;

use std::net::{IpAddr, SocketAddr};

/// Datagrams that one call sends to an upstream or takes from it at most.
pub const SOME: usize = 16;

/// What the kernel says of a receive queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueFill {
    /// What stands in it, in octets as the kernel counts them, its bookkeeping included. It may be too high by a quarter of
    /// the room: the kernel settles late.
    pub queued: usize,
    /// What it has room for, counted alike.
    pub room: usize,
    /// Datagrams dropped since the socket was opened, by a filter or for want of room.
    pub drops: u32,
}

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'b> {
    /// What came, at most [`DATAGRAM_MAX`](crate::net::limit::DATAGRAM_MAX) octets.
    pub octets: &'b [u8],
    /// There was more.
    pub is_cut: bool,
    /// Who sent it. IPv4-mapped addresses are IPv4 here.
    pub peer: SocketAddr,
    /// The address it was sent to, where the socket tells; IPv4-mapped addresses are IPv4 here.
    pub asked: Option<IpAddr>,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};
    use std::ptr::{self, NonNull};

    use super::{Datagram, QueueFill, SOME};
    use crate::net::limit::{BATCH, DATAGRAM_MAX};

    /// Room for one control message with an address (40 octets with IPv6) and one with a count (24).
    const CONTROL_LEN: usize = 64;

    /// Buffers lie a little more than a page apart, so that their first octets do not fight for one cache set.
    const STRIDE: usize = DATAGRAM_MAX + 192;

    /// Octets of a reply that fits any path whole: what we say that we can take ourselves.
    const WHOLE_MAX: usize = crate::wire::UDP_PAYLOAD_DEFAULT as usize;

    /// Octets of control messages, aligned as their headers must be.
    #[derive(Clone, Copy)]
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_LEN]);

    /// All that the kernel reads and writes. It never moves: the headers point at its other parts.
    struct Slots {
        incoming: [libc::mmsghdr; BATCH],
        outgoing: [libc::mmsghdr; BATCH],
        incoming_vectors: [libc::iovec; BATCH],
        outgoing_vectors: [libc::iovec; BATCH],
        peers: [libc::sockaddr_in6; BATCH],
        controls: [Control; BATCH],
        octets: [[u8; STRIDE]; BATCH],
    }

    /// What is known about a filled slot.
    #[derive(Clone, Copy)]
    struct Received {
        length: usize,
        is_cut: bool,
        peer: SocketAddr,
        source: Source,
    }

    /// Where a reply has to leave from.
    #[derive(Clone, Copy)]
    enum Source {
        /// The kernel knows: the socket has one address.
        Bound,
        /// This address of ours.
        V4(Ipv4Addr),
        /// This address of ours, on this interface where the address alone does not say it.
        V6(Ipv6Addr, libc::c_uint),
    }

    /// A place in the reply buffer.
    #[derive(Clone, Copy)]
    struct Queued {
        slot: usize,
        start: usize,
        end: usize,
    }

    /// Receives and sends many datagrams at once. One belongs to each worker.
    pub struct Batch {
        slots: NonNull<Slots>,
        received: Vec<Received>,
        queued: Vec<Queued>,
        replies: Vec<u8>,
        kernel_drops: u32,
        /// A reply was sent that may have to be cut into fragments.
        fragments: bool,
    }

    // SAFETY: `slots` is owned by this value alone, as a Box's content is by its Box; nothing in it belongs to a
    // thread.
    unsafe impl Send for Batch {}

    impl Drop for Batch {
        fn drop(&mut self) {
            // SAFETY: the pointer came from `Box::into_raw` in `new` and is given back only here.
            drop(unsafe { Box::from_raw(self.slots.as_ptr()) });
        }
    }

    impl Default for Batch {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Batch {
        /// An empty one. Its pages are touched only when traffic fills them.
        pub fn new() -> Self {
            // SAFETY: every part of `Slots` is made of integers and raw pointers, for which all zeros is a value.
            let slots = unsafe { Box::<Slots>::new_zeroed().assume_init() };
            let slots = NonNull::from(Box::leak(slots));
            let at = slots.as_ptr();
            for index in 0..BATCH {
                // SAFETY: `at` points to a live `Slots` that nobody else knows yet, and `index` is within its
                // arrays. The stored pointers stay right because the content of the Box never moves.
                unsafe {
                    let vector = &raw mut (*at).incoming_vectors[index];
                    (*vector).iov_base = (&raw mut (*at).octets[index]).cast();
                    (*vector).iov_len = DATAGRAM_MAX;
                    let header = &raw mut (*at).incoming[index].msg_hdr;
                    (*header).msg_name = (&raw mut (*at).peers[index]).cast();
                    (*header).msg_control = (&raw mut (*at).controls[index]).cast();
                    (*header).msg_iov = vector;
                    (*header).msg_iovlen = 1;
                    let header = &raw mut (*at).outgoing[index].msg_hdr;
                    (*header).msg_iov = &raw mut (*at).outgoing_vectors[index];
                    (*header).msg_iovlen = 1;
                }
            }
            let mut this = Self {
                slots,
                received: Vec::with_capacity(BATCH),
                queued: Vec::with_capacity(BATCH),
                replies: Vec::with_capacity(4096),
                kernel_drops: 0,
                fragments: false,
            };
            this.reset(BATCH);
            this
        }

        /// Gives the first `count` slots back to the kernel.
        fn reset(&mut self, count: usize) {
            let at = self.slots.as_ptr();
            for index in 0..count {
                // SAFETY: the slots are live and ours, `index` is within the arrays.
                let header = unsafe { &mut (*at).incoming[index].msg_hdr };
                header.msg_namelen = size_u32::<libc::sockaddr_in6>();
                header.msg_controllen = CONTROL_LEN as _;
                header.msg_flags = 0;
            }
        }

        /// Takes what is waiting, at most a batch; if nothing is, and `wait` says so, waits for one datagram as long
        /// as the socket's read time-out. Forgets the batch before.
        pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> io::Result<usize> {
            self.reset(self.received.len());
            self.received.clear();
            self.queued.clear();
            self.replies.clear();
            let flags = if wait {
                libc::MSG_WAITFORONE
            } else {
                libc::MSG_DONTWAIT
            };
            // SAFETY: `incoming` holds BATCH headers whose names, controls, vectors and buffers are parts of the
            // same live `Slots`, each as long as its header says (`new` and `reset`); the kernel writes only there.
            let count = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    (&raw mut (*self.slots.as_ptr()).incoming).cast(),
                    BATCH as _,
                    flags as _,
                    ptr::null_mut(),
                )
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            for index in 0..count {
                let received = self.look_at(index);
                self.received.push(received);
            }
            Ok(count)
        }

        /// Reads what the kernel wrote beside a datagram.
        fn look_at(&mut self, index: usize) -> Received {
            let at = self.slots.as_ptr();
            // SAFETY: the slots are live and ours, and `recvmmsg` has filled this one.
            let (header, peer) = unsafe { (&(*at).incoming[index], &(*at).peers[index]) };
            // SAFETY: the kernel has filled this header, its control pointer is still that of `new`.
            let (source, drops) = unsafe { read_controls(&header.msg_hdr) };
            if let Some(drops) = drops {
                self.kernel_drops = drops;
            }
            Received {
                length: usize::try_from(header.msg_len)
                    .map_or(DATAGRAM_MAX, |length| length.min(DATAGRAM_MAX)),
                is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                peer: socket_address(peer),
                source,
            }
        }

        /// A datagram of the batch.
        ///
        /// # Panics
        ///
        /// If `index` is not below what [`receive`](Self::receive) returned.
        pub fn datagram(&self, index: usize) -> Datagram<'_> {
            let received = &self.received[index];
            // SAFETY: the slots are live, `index` is below BATCH, and nothing writes to the octets while `self` is
            // borrowed: the kernel does only within `receive`, which takes `self` alone.
            let octets: &[u8] = unsafe { &(*self.slots.as_ptr()).octets[index] };
            Datagram {
                octets: &octets[..received.length],
                is_cut: received.is_cut,
                peer: received.peer,
                asked: received.source.address(),
            }
        }

        /// Datagrams that the kernel has thrown away since the socket was opened, as far as it has said.
        pub fn kernel_drops(&self) -> u32 {
            self.kernel_drops
        }

        /// Queues the reply to a datagram of the batch; at most one each.
        pub fn reply(&mut self, index: usize, octets: &[u8]) {
            debug_assert!(self.queued.last().is_none_or(|last| last.slot < index));
            let start = self.replies.len();
            self.replies.extend_from_slice(octets);
            self.queued.push(Queued {
                slot: index,
                start,
                end: self.replies.len(),
            });
        }

        /// How to reply to a datagram of the batch later.
        pub fn return_path(&self, index: usize) -> ReturnPath {
            // SAFETY: the slots are live, and nothing writes to them while `self` is borrowed.
            let slots = unsafe { self.slots.as_ref() };
            ReturnPath {
                peer: slots.peers[index],
                peer_len: slots.incoming[index].msg_hdr.msg_namelen,
                source: self.received[index].source,
            }
        }

        /// Sends the queued replies; returns how many are lost.
        ///
        /// No room (ENOBUFS, EAGAIN after the socket's write time-out) is tried once more and then costs the rest of
        /// the batch; any other error concerns one reply only (a firewall's EPERM, an address that is gone).
        pub fn send(&mut self, socket: &UdpSocket) -> usize {
            self.address_replies(socket);
            let (done, lost) = self.send_headers(socket, libc::MSG_NOSIGNAL);
            lost + self.queued.len() - done
        }

        /// The same without waiting for room: hands back those that found none, the oldest first.
        pub fn send_what_fits(
            &mut self,
            socket: &UdpSocket,
            mut unsent: impl FnMut(ReturnPath, &[u8]),
        ) -> usize {
            self.address_replies(socket);
            let (done, lost) = self.send_headers(socket, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
            for queued in &self.queued[done..] {
                let octets = &self.replies[queued.start..queued.end];
                unsent(self.return_path(queued.slot), octets);
            }
            lost
        }

        /// Fills the headers of the queued replies.
        fn address_replies(&mut self, socket: &UdpSocket) {
            let at = self.slots.as_ptr();
            let replies = self.replies.as_mut_ptr();
            for (place, queued) in self.queued.iter().enumerate() {
                if queued.end - queued.start > WHOLE_MAX && !self.fragments {
                    self.fragments = true;
                    allow_fragments(socket);
                }
                // SAFETY: the slots are live and ours; `place` and `queued.slot` are below BATCH, for at most one
                // reply is queued for each slot. The name is that of the slot, as long as the kernel said; the
                // control buffer is rewritten within its length; the octets are within `replies`, which nothing
                // changes before `sendmmsg` has returned.
                unsafe {
                    let vector = &mut (*at).outgoing_vectors[place];
                    vector.iov_base = replies.add(queued.start).cast();
                    vector.iov_len = queued.end - queued.start;
                    let control = &raw mut (*at).controls[queued.slot];
                    let header = &mut (*at).outgoing[place].msg_hdr;
                    header.msg_name = (&raw mut (*at).peers[queued.slot]).cast();
                    header.msg_namelen = (*at).incoming[queued.slot].msg_hdr.msg_namelen;
                    header.msg_controllen =
                        write_source(self.received[queued.slot].source, &mut *control) as _;
                    header.msg_control = if header.msg_controllen == 0 {
                        ptr::null_mut()
                    } else {
                        control.cast()
                    };
                }
            }
        }

        /// Sends what [`Self::address_replies`] has just filled; returns how far it came, and how many of those are lost.
        fn send_headers(&mut self, socket: &UdpSocket, flags: libc::c_int) -> (usize, usize) {
            let total = self.queued.len();
            // SAFETY: the caller has just filled the first `total` headers; all they point at is part of `slots` or of
            // `replies` and is only read.
            unsafe {
                let first = (&raw mut (*self.slots.as_ptr()).outgoing).cast();
                send_all(socket, first, total, flags)
            }
        }
    }

    /// Sends datagrams; returns how far it came, and how many of those are lost.
    ///
    /// # Safety
    ///
    /// `first` must point to `total` headers whose names, controls, vectors and octets are live and as long as they say.
    unsafe fn send_all(
        socket: &UdpSocket,
        first: *mut libc::mmsghdr,
        total: usize,
        flags: libc::c_int,
    ) -> (usize, usize) {
        let (mut done, mut lost, mut tried_again) = (0, 0, false);
        while done < total {
            // SAFETY: as the caller promises, and `done` is below `total`.
            let sent = unsafe {
                let next = first.add(done);
                libc::sendmmsg(socket.as_raw_fd(), next, (total - done) as _, flags as _)
            };
            if let Ok(sent @ 1..) = usize::try_from(sent) {
                done += sent;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOBUFS | libc::EAGAIN | libc::ENOMEM) => {
                    if tried_again {
                        break;
                    }
                    tried_again = true;
                }
                _ => {
                    lost += 1;
                    done += 1;
                }
            }
        }
        (done, lost)
    }

    /// Replies that one call of [`send_late`] hands to the kernel at once.
    const LATE: usize = 16;

    /// Sends replies whose batch is gone; returns how many are lost. If it must not wait for room, those that found none
    /// are handed back; if it may, they are lost as in [`Batch::send`].
    pub fn send_late(
        socket: &UdpSocket,
        replies: &[(ReturnPath, Vec<u8>)],
        may_wait: bool,
        mut unsent: impl FnMut(&(ReturnPath, Vec<u8>)),
    ) -> usize {
        let flags = if may_wait {
            libc::MSG_NOSIGNAL
        } else {
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT
        };
        let mut lost = 0;
        for replies in replies.chunks(LATE) {
            // SAFETY: all zeros is a value of `mmsghdr` and of `iovec`: integers and null pointers.
            let (mut headers, mut vectors): ([libc::mmsghdr; LATE], [libc::iovec; LATE]) =
                unsafe { mem::zeroed() };
            let mut controls = [const { Control([0; CONTROL_LEN]) }; LATE];
            let places = headers.iter_mut().zip(&mut vectors).zip(&mut controls);
            for (((header, vector), control), (path, octets)) in places.zip(replies) {
                if octets.len() > WHOLE_MAX {
                    allow_fragments(socket);
                }
                vector.iov_base = octets.as_ptr().cast_mut().cast();
                vector.iov_len = octets.len();
                let header = &mut header.msg_hdr;
                header.msg_name = (&raw const path.peer).cast_mut().cast();
                header.msg_namelen = path.peer_len;
                header.msg_iov = vector;
                header.msg_iovlen = 1;
                let control_len = write_source(path.source, control);
                if control_len != 0 {
                    header.msg_control = (&raw mut *control).cast();
                    header.msg_controllen = control_len as _;
                }
            }
            // SAFETY: as many headers as there are replies were just filled; what they point at outlives the call and is
            // only read.
            let (done, failed) =
                unsafe { send_all(socket, headers.as_mut_ptr(), replies.len(), flags) };
            lost += failed;
            let rest = &replies[done..];
            if may_wait {
                lost += rest.len();
            } else {
                rest.iter().for_each(&mut unsent);
            }
        }
        lost
    }

    /// How to reply to a datagram whose batch is gone.
    #[derive(Clone, Copy)]
    pub struct ReturnPath {
        peer: libc::sockaddr_in6,
        peer_len: libc::socklen_t,
        source: Source,
    }

    impl ReturnPath {
        /// Sends one reply; never waits.
        pub fn send(&self, socket: &UdpSocket, octets: &[u8]) -> io::Result<()> {
            if octets.len() > WHOLE_MAX {
                allow_fragments(socket);
            }
            let mut vector = libc::iovec {
                iov_base: octets.as_ptr().cast_mut().cast(),
                iov_len: octets.len(),
            };
            // SAFETY: all zeros is a value of `msghdr`: integers and null pointers.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = (&raw const self.peer).cast_mut().cast();
            header.msg_namelen = self.peer_len;
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            let mut control = Control([0; CONTROL_LEN]);
            let control_len = write_source(self.source, &mut control);
            if control_len != 0 {
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = control_len as _;
            }
            // SAFETY: name, control, vector and octets outlive the call, each is as long as said, and `sendmsg`
            // only reads them.
            let sent = unsafe {
                libc::sendmsg(
                    socket.as_raw_fd(),
                    &raw const header,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        }
    }

    /// Sends datagrams over a connected socket, without waiting, [`SOME`] of them at most. Returns how many of them the
    /// kernel took: all, or those before one that it did not. An error is that of the first one.
    pub fn send_some<'d>(
        socket: &impl AsFd,
        datagrams: impl Iterator<Item = &'d [u8]>,
    ) -> io::Result<usize> {
        // SAFETY: all zeros is a value of `mmsghdr` and of `iovec`: integers and null pointers.
        let (mut headers, mut vectors): ([libc::mmsghdr; SOME], [libc::iovec; SOME]) =
            unsafe { mem::zeroed() };
        let mut count = 0;
        for ((header, vector), octets) in headers.iter_mut().zip(&mut vectors).zip(datagrams) {
            vector.iov_base = octets.as_ptr().cast_mut().cast();
            vector.iov_len = octets.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        // SAFETY: so many headers were just filled; their vectors and octets outlive the call and are only read.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Room for what connected sockets receive: [`SOME`] datagrams of any length. Pages are touched as they are filled.
    pub struct Inbox {
        octets: Box<[[u8; 1 << 16]; SOME]>,
        lengths: [usize; SOME],
    }

    impl Default for Inbox {
        fn default() -> Self {
            // SAFETY: all zeros is a value of an array of integers.
            let octets = unsafe { Box::<[[u8; 1 << 16]; SOME]>::new_zeroed().assume_init() };
            let lengths = [0; SOME];
            Self { octets, lengths }
        }
    }

    impl Inbox {
        /// Takes what is there, `count` datagrams at most, without waiting.
        pub fn receive(&mut self, socket: &impl AsFd, count: usize) -> io::Result<usize> {
            // SAFETY: all zeros is a value of `mmsghdr` and of `iovec`: integers and null pointers.
            let (mut headers, mut vectors): ([libc::mmsghdr; SOME], [libc::iovec; SOME]) =
                unsafe { mem::zeroed() };
            let count = count.min(SOME);
            let places = headers.iter_mut().zip(&mut vectors).zip(&mut *self.octets);
            for ((header, vector), octets) in places.take(count) {
                vector.iov_base = octets.as_mut_ptr().cast();
                vector.iov_len = octets.len();
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: `count` headers were just filled; the kernel writes to their octets, each as long as it says, and to
            // the headers, all of which outlive the call.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_fd().as_raw_fd(),
                    headers.as_mut_ptr(),
                    count as _,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
            for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
                *length = header.msg_len as usize;
            }
            Ok(received)
        }

        /// One of what was received last.
        ///
        /// # Panics
        ///
        /// If `index` is not below [`SOME`].
        pub fn datagram(&self, index: usize) -> &[u8] {
            &self.octets[index][..self.lengths[index]]
        }
    }

    impl Source {
        fn address(self) -> Option<IpAddr> {
            match self {
                Self::Bound => None,
                Self::V4(address) => Some(address.into()),
                Self::V6(address, _) => Some(IpAddr::V6(address).to_canonical()),
            }
        }
    }

    /// Finds the address that was asked, and the count of datagrams dropped.
    ///
    /// # Safety
    ///
    /// `header` must come from the kernel: its control pointer and length bound live, initialized octets.
    unsafe fn read_controls(header: &libc::msghdr) -> (Source, Option<u32>) {
        let (mut source, mut drops) = (Source::Bound, None);
        // SAFETY: the macros stay within pointer and length of the header, as its caller promises; the data of a
        // message whose length holds a type is read without asking for its alignment.
        unsafe {
            let mut control = libc::CMSG_FIRSTHDR(header);
            while !control.is_null() {
                let length = (*control).cmsg_len as usize;
                let data = libc::CMSG_DATA(control);
                match ((*control).cmsg_level, (*control).cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO)
                        if length >= control_len::<libc::in_pktinfo>() =>
                    {
                        let asked: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                        let address = asked.ipi_spec_dst.s_addr;
                        source = Source::V4(Ipv4Addr::from(address.to_ne_bytes()));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                        if length >= control_len::<libc::in6_pktinfo>() =>
                    {
                        let asked: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                        let address = Ipv6Addr::from(asked.ipi6_addr.s6_addr);
                        source = Source::V6(address, asked.ipi6_ifindex as _);
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if length >= control_len::<u32>() => {
                        drops = Some(ptr::read_unaligned(data.cast()));
                    }
                    _ => {}
                }
                control = libc::CMSG_NXTHDR(header, control);
            }
        }
        (source, drops)
    }

    /// Writes the control message that makes a reply leave from `source`; returns its octets, 0 if none is needed.
    fn write_source(source: Source, control: &mut Control) -> usize {
        match source {
            Source::Bound => 0,
            Source::V4(address) => {
                let source = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, source)
            }
            Source::V6(address, interface) => {
                // Elsewhere the routing table picks the interface, as it may differ from the one asked on.
                let scoped = address.is_unicast_link_local();
                let source = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: address.octets(),
                    },
                    ipi6_ifindex: if scoped { interface as _ } else { 0 },
                };
                write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, source)
            }
        }
    }

    /// Writes one control message; returns the octets it takes with its padding.
    fn write_control<T>(
        control: &mut Control,
        level: libc::c_int,
        kind: libc::c_int,
        data: T,
    ) -> usize {
        // SAFETY: pure arithmetic.
        let space = unsafe { libc::CMSG_SPACE(size_u32::<T>()) } as usize;
        assert!(space <= CONTROL_LEN, "a control message fits its slot");
        let header: *mut libc::cmsghdr = (&raw mut *control).cast();
        // SAFETY: `control` is aligned for a header and holds `space` octets, header and data included; CMSG_DATA
        // points behind the header within them.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = control_len::<T>() as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast(), data);
        }
        space
    }

    fn control_len<T>() -> usize {
        // SAFETY: pure arithmetic.
        unsafe { libc::CMSG_LEN(size_u32::<T>()) as usize }
    }

    fn size_u32<T>() -> u32 {
        u32::try_from(size_of::<T>()).expect("the kernel's types are small")
    }

    /// The address in the kernel's form as ours; what is neither IPv4 nor IPv6 has port 0, which is never answered.
    fn socket_address(address: &libc::sockaddr_in6) -> SocketAddr {
        match libc::c_int::from(address.sin6_family) {
            libc::AF_INET => {
                // SAFETY: `sockaddr_in` is smaller than `sockaddr_in6`, no more aligned, and made of integers; the
                // family says that this is one.
                let address = unsafe { &*ptr::from_ref(address).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                (ip, u16::from_be(address.sin_port)).into()
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                let port = u16::from_be(address.sin6_port);
                match ip.to_ipv4_mapped() {
                    Some(ip) => (ip, port).into(),
                    None => SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into(),
                }
            }
            _ => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    /// Sets the options that a listening UDP socket needs, and returns the octets that its receive queue got, in the
    /// unit in which they were asked for.
    pub fn prepare(socket: &impl AsFd, address: &SocketAddr, queue: usize) -> io::Result<usize> {
        let fd = socket.as_fd().as_raw_fd();
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
                SocketAddr::V6(_) => set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
            }
        }
        // What we send fits any path, so a forged report of a narrower one must not make the kernel fragment it: DF is set
        // whatever such reports say (RFC 9715, section 3.1). It also spares the kernel the choice of an ID. An IPv6 socket
        // that takes IPv4 as well needs both. Kernels before 3.15 do not know the last value.
        let _ = set(
            fd,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        );
        if address.is_ipv6() {
            let _ = set(
                fd,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                libc::IPV6_PMTUDISC_OMIT,
            );
        }
        set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        let wanted = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX);
        // The first needs CAP_NET_ADMIN, the second stops at net.core.rmem_max without an error.
        if set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
            set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted)?;
        }
        // The kernel doubles what it is asked for, to pay for its own bookkeeping.
        Ok(get(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)? / 2)
    }

    /// Lets IPv4 replies be cut into fragments on their way: `bufsize` may allow more than fits any path.
    fn allow_fragments(socket: &UdpSocket) {
        // If it fails, a reply that is too large does.
        let _ = set(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        );
    }

    /// Looks at the socket's receive queue.
    pub fn queue_fill(socket: &impl AsFd) -> io::Result<QueueFill> {
        let mut figures = [0_u32; 16];
        let mut length = size_u32::<[u32; 16]>();
        // SAFETY: the kernel writes at most `length` octets to `figures`, and the length it wrote to `length`.
        let done = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        // SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_RCVBUF are the first two, SK_MEMINFO_DROPS is the ninth.
        Ok(QueueFill {
            queued: figures[0] as usize,
            room: figures[1] as usize,
            drops: figures[8],
        })
    }

    /// Lets the process open as many files as its hard limit allows. Service managers leave the soft limit at 1024
    /// for the sake of `select`, which nobody here uses.
    pub fn raise_file_limit() -> io::Result<()> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the kernel writes one `rlimit`, which outlives the call.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            // SAFETY: the kernel reads one `rlimit`, which outlives the call.
            if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    fn set(
        fd: libc::c_int,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        // SAFETY: the kernel reads one integer, which outlives the call.
        let done = unsafe {
            libc::setsockopt(
                fd,
                level,
                name,
                (&raw const value).cast(),
                size_u32::<libc::c_int>(),
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn get(fd: libc::c_int, level: libc::c_int, name: libc::c_int) -> io::Result<usize> {
        let mut value: libc::c_int = 0;
        let mut length = size_u32::<libc::c_int>();
        // SAFETY: the kernel writes at most `length` octets to `value`, and the length it wrote to `length`.
        let done =
            unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) };
        if done == 0 {
            Ok(usize::try_from(value).unwrap_or(0))
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
