// Package bmc holds the drivers against BMCs that they were not written beside:
// the lab's virtual ones, and OpenIPMI's ipmi_sim, which needs the Debian package
// openipmi and is skipped where BEDPLATE_E2E isn't 1.
package bmc
