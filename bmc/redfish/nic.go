package redfish

import (
	"context"
	"strings"

	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// nics reads the system's interfaces, and the functions of the chassis' network
// adapters, which has those that no operating system has shown the BMC.
func (d *Driver) nics(ctx context.Context, s *system, failed func(error)) ([]*pb.NIC, error) {
	var nics []*pb.NIC
	seen := map[machine.MAC]bool{}
	interfaces, err := collect[ethernet](ctx, d, s.Ethernet.Path, failed)
	for _, e := range interfaces {
		mac, ok := e.mac()
		if !ok || seen[mac] || !e.Status.present() {
			continue
		}
		seen[mac] = true
		nics = append(nics, e.nic(mac))
	}
	chassis, chassisErr := d.chassis(ctx)
	if chassisErr != nil {
		return nics, err // the interfaces alone then
	}
	for _, path := range chassis {
		for _, nic := range d.adapters(ctx, path, failed) {
			if mac, err := machine.ParseMAC(nic.Mac); err == nil && !seen[mac] {
				seen[mac] = true
				nics = append(nics, nic)
			}
		}
	}
	return nics, err
}

func (e ethernet) nic(mac machine.MAC) *pb.NIC {
	nic := &pb.NIC{Name: e.ID, Mac: mac.String(), Link: e.LinkStatus == "LinkUp", Mtu: e.MTUSize}
	if nic.Link {
		nic.SpeedMbps = e.SpeedMbps
	}
	return nic
}

// adapters reads the Ethernet functions of a chassis' network adapters.
func (d *Driver) adapters(ctx context.Context, chassis string, failed func(error)) []*pb.NIC {
	type adapter struct {
		Manufacturer, Model    string
		Status                 status
		NetworkDeviceFunctions link
		Controllers            []struct{ FirmwarePackageVersion string }
	}
	type function struct {
		ID       string `json:"Id"`
		Ethernet ethernet
	}
	var c struct{ NetworkAdapters link }
	if _, err := d.get(ctx, chassis, &c); err != nil {
		failed(err)
		return nil
	}
	all, err := collect[adapter](ctx, d, c.NetworkAdapters.Path, failed)
	if err != nil {
		failed(err)
	}
	var nics []*pb.NIC
	for _, a := range all {
		if !a.Status.present() {
			continue
		}
		functions, err := collect[function](ctx, d, a.NetworkDeviceFunctions.Path, failed)
		if err != nil {
			failed(err)
		}
		for _, f := range functions {
			mac, ok := f.Ethernet.mac()
			if !ok {
				continue
			}
			nic := &pb.NIC{Name: f.ID, Mac: mac.String(), Vendor: strings.TrimSpace(a.Manufacturer), Product: strings.TrimSpace(a.Model)}
			if len(a.Controllers) > 0 {
				nic.FirmwareVersion = a.Controllers[0].FirmwarePackageVersion
			}
			nics = append(nics, nic)
		}
	}
	return nics
}
