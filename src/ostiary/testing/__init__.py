"""The executable pact: check_attack, check_detector, check_purifier, and one-second victims."""
