// Package network holds what Bedplate writes of a machine's network against
// the programs that read it: netplan, systemd-networkd and its reader of kernel
// arguments, NetworkManager and its own, FRR and BIRD.
package network
