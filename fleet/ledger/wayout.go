package ledger

// WayOut is what a person does about evidence of this kind, in a sentence or two.
func (k Kind) WayOut() string {
	switch k {
	case Conflict:
		return "the machine's counter went back, or its storage was copied. Compare both with the back office's orders (farebeat ledger reconcile), " +
			"book the one that is missing there by hand, and give the machine a new epoch or another journal."
	case Forged:
		return "check the machine's key (farebeat machine key): with the right one it signs what comes next. If its key is right, somebody else sends in its name."
	case Malformed:
		return "read the record above. If it came from the machine, its software is at fault: its maker has to mend it. The number stays a gap."
	case BrokenChain:
		return "the machine's journal was changed or is of two machines with one key. The record counts, since its MAC is good; look at the machine."
	}
	return ""
}
