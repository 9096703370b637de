// Package interop tests services together and against foreign peers, over real sockets.
package interop
