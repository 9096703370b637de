package inventory

import (
	"fmt"
	"net"
	"net/netip"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// IPMI 2.0: network functions and commands that are used.
const (
	netfnApp       = 0x06
	netfnTransport = 0x0c

	cmdGetDeviceID    = 0x01 // §20.1
	cmdGetChannelInfo = 0x42 // §22.24
	cmdGetLANConfig   = 0x02 // §23.2

	paramAddress = 3
	paramMAC     = 5

	mediumLAN  = 4 // table 6-3
	maxChannel = 0x0b
)

// ask sends one request and returns the data after the completion code, which
// was 0.
type ask func(netfn, cmd byte, data ...byte) ([]byte, error)

// readBMC asks for firmware version, address and MAC, the latter two on the
// first channel that is a LAN.
func readBMC(ask ask) (*pb.BMCInfo, error) {
	id, err := ask(netfnApp, cmdGetDeviceID)
	if err != nil {
		return nil, fmt.Errorf("asking for its identity: %w", err)
	}
	b := &pb.BMCInfo{Present: true}
	if len(id) >= 4 {
		b.FirmwareVersion = fmt.Sprintf("%d.%02x", id[2]&0x7f, id[3]) // the minor part is BCD
	}
	for channel := byte(1); channel <= maxChannel; channel++ {
		info, err := ask(netfnApp, cmdGetChannelInfo, channel)
		if err != nil || len(info) < 2 || info[1]&0x7f != mediumLAN {
			continue
		}
		addr, err := ask(netfnTransport, cmdGetLANConfig, channel, paramAddress, 0, 0)
		if err != nil || len(addr) < 5 { // the first byte is the parameter's revision
			continue
		}
		if a := netip.AddrFrom4([4]byte(addr[1:5])); !a.IsUnspecified() {
			b.Address = a.String()
		}
		if mac, err := ask(netfnTransport, cmdGetLANConfig, channel, paramMAC, 0, 0); err == nil && len(mac) >= 7 {
			b.Mac = net.HardwareAddr(mac[1:7]).String()
		}
		return b, nil
	}
	return b, fmt.Errorf("no channel of it is a LAN")
}
