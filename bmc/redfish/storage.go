package redfish

import (
	"context"
	"math"
	"slices"
	"strings"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// drive is a disk (Drive schema).
type drive struct {
	ID             string `json:"Id"`
	Name           string
	Manufacturer   string
	Model          string
	SerialNumber   string
	Revision       string
	Firmware       string `json:"FirmwareVersion"`
	MediaType      string
	Protocol       string
	CapacityBytes  float64
	BlockSizeBytes uint32
	Status         status
	FailurePredict bool    `json:"FailurePredicted"`
	LifeLeft       float64 `json:"PredictedMediaLifeLeftPercent"`
	Identifiers    []struct{ DurableName, DurableNameFormat string }
}

// disks reads the drives of the system's storage, or its simple storage where
// that is all there is.
func (d *Driver) disks(ctx context.Context, s *system, failed func(error)) ([]*pb.Disk, error) {
	type storage struct {
		Drives []link
	}
	subsystems, err := collect[storage](ctx, d, s.Storage.Path, failed)
	var disks []*pb.Disk
	var seen []string
	for _, sub := range subsystems {
		for _, path := range pathsOf(sub.Drives) {
			if slices.Contains(seen, path) || len(seen) >= maxMembers {
				continue
			}
			seen = append(seen, path)
			var v drive
			if _, err := d.get(ctx, path, &v); err != nil {
				failed(err)
				continue
			}
			if v.Status.present() {
				disks = append(disks, v.disk())
			}
		}
	}
	if len(disks) > 0 || s.SimpleStorage.Path == "" {
		return disks, err
	}
	return d.simpleDisks(ctx, s, failed)
}

func (d *Driver) simpleDisks(ctx context.Context, s *system, failed func(error)) ([]*pb.Disk, error) {
	type simple struct {
		Devices []struct {
			Name, Manufacturer, Model string
			CapacityBytes             float64
			Status                    status
		}
	}
	all, err := collect[simple](ctx, d, s.SimpleStorage.Path, failed)
	var disks []*pb.Disk
	for _, controller := range all {
		for _, v := range controller.Devices {
			if v.Status.present() && v.CapacityBytes > 0 {
				disks = append(disks, &pb.Disk{Name: v.Name, Vendor: known(v.Manufacturer), Model: known(v.Model), SizeBytes: size(v.CapacityBytes), Bus: "unknown"})
			}
		}
	}
	return disks, err
}

func size(n float64) uint64 {
	if n <= 0 || n > math.MaxInt64 {
		return 0
	}
	return uint64(n)
}

// disk returns the drive in the words of the inventory. Name is the BMC's: the
// kernel's isn't known here.
func (v drive) disk() *pb.Disk {
	disk := &pb.Disk{
		Name:             v.ID,
		Model:            known(v.Model),
		Vendor:           known(v.Manufacturer),
		Serial:           known(v.SerialNumber),
		FirmwareVersion:  known(v.Revision),
		SizeBytes:        size(v.CapacityBytes),
		LogicalBlockSize: v.BlockSizeBytes,
		Rotational:       v.MediaType == "HDD" || v.MediaType == "SMR",
		Bus:              bus(v.Protocol),
	}
	if disk.FirmwareVersion == "" {
		disk.FirmwareVersion = known(v.Firmware)
	}
	switch {
	case disk.Bus == "nvme":
		disk.Type = "nvme"
	case v.MediaType == "SSD":
		disk.Type = "ssd"
	case disk.Rotational:
		disk.Type = "hdd"
	}
	for _, id := range v.Identifiers {
		if id.DurableNameFormat == "NAA" || id.DurableNameFormat == "EUI" || id.DurableNameFormat == "NGUID" {
			disk.Wwn = strings.ToLower(id.DurableName)
		}
	}
	if v.Status.Health != "" {
		disk.Smart = &pb.SMART{Supported: true, Healthy: v.Status.Health == "OK" && !v.FailurePredict}
		if v.LifeLeft > 0 && v.LifeLeft <= 100 && disk.Bus == "nvme" {
			disk.Smart.PercentageUsed = uint32(100 - v.LifeLeft)
		}
	}
	return disk
}

// bus returns the inventory's word for a protocol.
func bus(protocol string) string {
	switch protocol {
	case "NVMe", "PCIe":
		return "nvme"
	case "SATA", "AHCI":
		return "sata"
	case "SAS":
		return "sas"
	case "USB":
		return "usb"
	case "":
		return "unknown"
	}
	return strings.ToLower(protocol)
}
