// Package fault lets tests kill srpo's processes at chosen points. In a normal build [On] is false and
// every function is empty: what it guards is compiled away. With the build tag "faults" a program follows
// the plan in the variable SRPO_FAULT, and writes what it comes by into the file that SRPO_FAULT_TRACE
// names.
//
// A point has a name, in which numbers count as one ("store rename checkpoints/N"), so that a point means
// the same in every iteration, and is told from others of its name by its place among them. A plan is a
// list of faults with a semicolon between them, each "WHO,WHEN,NAME,K":
//
//	WHO   host: this very process gets SIGKILL; plugin: the process that the call goes to; stop: that process gets SIGSTOP, and hangs
//	WHEN  before or after; torn: a write that gets half of its bytes into the file; a number: so many microseconds into the call
//	NAME  of the point or call
//	K     the how many-th of that name, from 1
package fault

import "strings"

// Name replaces each number in the description of a point by N.
func Name(description string) string {
	var b strings.Builder
	digits := false
	for _, r := range description {
		if r >= '0' && r <= '9' {
			if !digits {
				b.WriteByte('N')
			}
			digits = true
			continue
		}
		digits = false
		b.WriteRune(r)
	}
	return b.String()
}
