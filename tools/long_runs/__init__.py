"""Does memory stay flat over ten thousand answers, and does nothing break where a limit is met?"""
