"""From files to files: pairs of photographs and scores, surveyed, refined, written, resumed."""
