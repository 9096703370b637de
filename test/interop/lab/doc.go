// Package lab has programs that nobody here wrote drive the lab's BMCs, with
// real machines behind them: Debian's ipmitool, redfishtool and python3-sushy
// are the witnesses that the BMCs are honest, SeaBIOS and OVMF that boot
// overrides and virtual media are real. It needs root, QEMU and those tools:
// BEDPLATE_E2E=1.
package lab
