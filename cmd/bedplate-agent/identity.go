package main

import (
	"sync"

	"github.com/bedplate/bedplate/agent/hardware"
)

// identity is who this machine is, once it has enrolled: what it shows to
// other machines that measure the network with it.
type identity struct {
	mu  sync.Mutex
	id  hardware.Identity
	has bool
}

func (i *identity) set(id hardware.Identity) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.id, i.has = id, true
}

func (i *identity) get() (hardware.Identity, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.id, i.has
}
