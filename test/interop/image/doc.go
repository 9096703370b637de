// Package image tests the server's image store against the agent that writes from it.
package image
