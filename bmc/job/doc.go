// Package job carries out Job resources: what machines' BMCs are to do. Jobs of
// one machine run one after another in the order in which they were created,
// those of different machines beside each other, up to a bound.
//
// What is to happen next is a pure function of the resources as they are (see
// decide). The start of an operation is durable before the BMC is called, and
// its end before the next one starts; so after a crash at any point the same
// decision is taken again. An operation that ran when the server stopped is
// marked as interrupted. What can be done again is done again, by looking first
// at what is there already; a reset, a power cycle, an NMI or a firmware update
// isn't: the machine's state, or the task on the BMC, says what became of it.
//
// Machines that are powered on share the budget of their power group (a PDU or
// a rack), and say so while they wait.
//
// What this package does not do: it makes no jobs. It knows sessions, passwords
// and certificates only through the interface BMCs. One goroutine, the loop,
// owns all state; each operation under way has one more.
package job
