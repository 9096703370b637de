package engine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"sync"

	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
	"github.com/bedplate/bedplate/metadata"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// documents finds the metadata of instances in memory: by the digest of their
// key, and by the address of their machine.
type documents struct {
	index *index.Index
	// key returns the secret part of an instance's metadata URL.
	key func(instance, uid string) string
	// network returns the network configuration of a machine that isn't to ask DHCP.
	network func(m machine.Machine, image string) (systemNetwork, error)

	mu        sync.RWMutex
	instances map[string]*pb.Instance
	byDigest  map[[sha256.Size]byte]string
}

func newDocuments(x *index.Index, key func(instance, uid string) string, network func(m machine.Machine, image string) (systemNetwork, error)) *documents {
	return &documents{index: x, key: key, network: network, instances: map[string]*pb.Instance{}, byDigest: map[[sha256.Size]byte]string{}}
}

func (d *documents) digest(i *pb.Instance) [sha256.Size]byte {
	return sha256.Sum256([]byte(d.key(i.GetMetadata().GetName(), i.GetMetadata().GetUid())))
}

func (d *documents) set(i *pb.Instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.instances[i.GetMetadata().GetName()]; ok {
		delete(d.byDigest, d.digest(old))
	}
	d.instances[i.GetMetadata().GetName()] = i
	d.byDigest[d.digest(i)] = i.GetMetadata().GetName()
}

func (d *documents) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old, ok := d.instances[name]; ok {
		delete(d.byDigest, d.digest(old))
		delete(d.instances, name)
	}
}

// instanceByKey returns the instance that a key opens.
func (d *documents) instanceByKey(key string) (*pb.Instance, bool) {
	sum := sha256.Sum256([]byte(key))
	d.mu.RLock()
	defer d.mu.RUnlock()
	name, ok := d.byDigest[sum]
	if !ok {
		return nil, false
	}
	i, ok := d.instances[name]
	return i, ok
}

// instance returns an instance by name.
func (d *documents) instance(name string) (*pb.Instance, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	i, ok := d.instances[name]
	return i, ok
}

// ByKey implements metadata.Source.
func (d *documents) ByKey(key string) (metadata.Document, bool) {
	i, ok := d.instanceByKey(key)
	if !ok {
		return metadata.Document{}, false
	}
	m, _ := d.index.ByName(machine.Name(i.GetStatus().GetMachine()))
	return d.document(i, m), true
}

// ByAddress implements metadata.Source.
func (d *documents) ByAddress(a netip.Addr) (metadata.Document, bool) {
	m, ok := d.index.ByAddress(a)
	if !ok || m.Instance == "" {
		return metadata.Document{}, false
	}
	d.mu.RLock()
	i, ok := d.instances[m.Instance]
	d.mu.RUnlock()
	if !ok {
		return metadata.Document{}, false
	}
	doc := d.document(i, m)
	doc.LocalIPv4 = a.Unmap()
	return doc, true
}

// document is what an instance on a machine may know of itself.
func (d *documents) document(i *pb.Instance, m machine.Machine) metadata.Document {
	doc := metadata.Document{
		Machine: m.Name, InstanceID: "i-" + i.GetMetadata().GetUid(), Hostname: i.GetSpec().GetHostname(),
		SSHKeys: i.GetSpec().GetSshKeys(), UserData: []byte(i.GetSpec().GetUserData()), NetworkConfig: []byte(i.GetSpec().GetNetworkConfig()),
		Labels: i.GetMetadata().GetLabels(), Ignition: i.GetSpec().GetIgnition(), KernelArguments: i.GetSpec().GetKernelArguments(),
	}
	n, err := d.network(m, i.GetSpec().GetImage())
	doc.NetworkFiles = n.files
	if t := i.GetSpec().GetTalos(); t != nil {
		doc.Talos, doc.TalosPatches, doc.TalosNetwork = t.GetConfig(), t.GetPatches(), n.talos
	}
	if len(doc.NetworkConfig) == 0 {
		doc.NetworkConfig, doc.NetworkErr = n.cloudInit, err
	}
	if doc.Hostname == "" {
		doc.Hostname = orText(m.Hostname, i.GetMetadata().GetName())
	}
	for _, nic := range m.Interfaces {
		doc.MACs = append(doc.MACs, nic.MAC)
		if nic.Address.IsValid() && !doc.LocalIPv4.IsValid() {
			doc.LocalIPv4 = nic.Address.Addr()
		}
	}
	return doc
}

// feedInstances keeps the documents current.
func (e *Engine) feedInstances(ctx context.Context) error {
	return resource.Follow(ctx, e.db, e.documents.set, e.documents.remove, e.synced("instances"))
}

// phoneHome records that an installed system is up.
func (e *Engine) phoneHome(ctx context.Context, key string, peer netip.Addr, _ map[string]string) error {
	i, ok := e.documents.instanceByKey(key)
	if !ok {
		return fmt.Errorf("this key opens no instance: %w", store.ErrNotFound)
	}
	e.log.Info("installed system reports in", "machine", i.GetStatus().GetMachine(), "addr", peer)
	return e.lifecycle.PhoneHome(ctx, i.GetMetadata().GetName(), peer.String())
}
