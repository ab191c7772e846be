// Package replay judges stored history by a set of rules: which route faults would have fired,
// when they would have opened and closed, and how that differs from what fired live.
//
// History is a frame a minute: per route how many were online at its end, the least and the most
// within it, how many are known, what was expected, and whether we were blind. What a frame
// cannot know is Limits. The verdicts and the faults' lives come from the same code as live.
package replay

// Limits says, a sentence each, what a replay of minutes cannot know.
func Limits() []string {
	return []string{
		"Rules of single machines and of the platform are not replayed: minutes do not name machines. Platform faults are those that the store has, and what they explain is folded under them.",
		"Within a minute only the least, the most and the last number are known: each is taken for a third of it, so what opens or closes within seconds live may do so up to a minute earlier or later.",
		"How long nothing was heard of a route is taken from the minute in which its number fell to 0, when its machines had been silent for the deadline already: a silent route opens up to a minute later than live.",
		"A route that was on no roster at the time has no minutes, and is not judged.",
		"Reports by hand, and what people did about a fault, are left out.",
	}
}
