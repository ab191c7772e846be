package limit

import (
	"net"
	"net/netip"
)

// Address is a client's address as limits and audit have it: without its port, and of IPv6 the network of 64 bits, which is one client's.
func Address(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	address, err := netip.ParseAddr(remote)
	if err != nil {
		return remote[:min(len(remote), 64)] // such as @ of a Unix socket
	}
	address = address.Unmap().WithZone("")
	if address.Is4() || address.IsLoopback() {
		return address.String()
	}
	return netip.PrefixFrom(address, 64).Masked().String()
}
